"""Probation: harm ends it at once, time ends it well."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.deployment import probation
from agent.deployment.probation import Facts, Verdict, decide
from firmware_bundles.wire.messages import Policy

POLICY = Policy(probation_s=10.0, self_test_s_max=5.0)


def test_a_model_that_serves_until_the_end_is_committed() -> None:
    """Silence is no harm: a device without traffic may commit."""
    assert decide(Facts(9.9, 0.0), POLICY).verdict is Verdict.WAIT
    assert decide(Facts(10.0, 0.0), POLICY).verdict is Verdict.COMMIT


def test_a_model_that_does_not_serve_at_the_end_is_waited_for_then_rolled_back() -> None:
    """The end of the time alone commits nothing."""
    assert decide(Facts(10.0, 1.0), POLICY).verdict is Verdict.WAIT
    assert decide(Facts(16.0, 5.1), POLICY).verdict is Verdict.ROLL_BACK


def test_deaths_of_the_worker_roll_back() -> None:
    """Two may be somebody's kill; three are the model's."""
    assert decide(Facts(1.0, 0.0, deaths=2), POLICY).verdict is Verdict.WAIT
    assert decide(Facts(1.0, 0.0, deaths=3), POLICY).verdict is Verdict.ROLL_BACK


def test_a_share_of_errors_is_judged_from_a_minimum_on() -> None:
    """A few first errors are no share."""
    few = Facts(1.0, 0.0, answered=1, errors=5)
    many = Facts(1.0, 0.0, answered=80, errors=20)
    assert decide(few, POLICY).verdict is Verdict.WAIT
    assert decide(many, POLICY).verdict is Verdict.ROLL_BACK


@given(
    facts=st.builds(
        Facts,
        elapsed_s=st.floats(0, 100),
        unready_s=st.floats(0, 100),
        deaths=st.integers(0, 5),
        answered=st.integers(0, 1000),
        errors=st.integers(0, 1000),
    ),
    policy=st.builds(Policy, probation_s=st.floats(0, 60)),
)
def test_every_verdict_has_its_reason(facts: Facts, policy: Policy) -> None:
    """Total; a commit means that the time is over, the model serves and nothing died thrice."""
    decision = decide(facts, policy)
    assert decision.why
    if decision.verdict is Verdict.COMMIT:
        assert facts.elapsed_s >= policy.probation_s
        assert facts.unready_s == 0
        assert facts.deaths < probation.DEATHS_MAX
