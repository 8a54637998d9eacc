"""Probation: harm ends it at once, time ends it well."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment import probation
from agent.deployment.probation import Facts, Verdict, decide
from firmware_bundles.wire.messages import Budgets, Policy

POLICY = Policy(probation_s=10.0, self_test_s_max=5.0)


def within(**budgets: float) -> Policy:
    """The policy with budgets."""
    return msgspec.structs.replace(POLICY, budgets=msgspec.convert(budgets, Budgets))


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


def test_a_latency_above_the_budget_rolls_back() -> None:
    """The policy's budget, else the manifest's; judged from a minimum of answers on."""
    budget = within(latency_ms_max=5.0)
    slow = Facts(1.0, 0.0, answered=20, latency_ms=6.0)
    assert decide(slow, budget).verdict is Verdict.ROLL_BACK
    assert decide(slow._replace(answered=19), budget).verdict is Verdict.WAIT
    assert decide(slow, POLICY).verdict is Verdict.WAIT
    promised = slow._replace(manifest_latency_ms_max=3.0)
    assert decide(promised, POLICY).verdict is Verdict.ROLL_BACK
    assert decide(promised, within(latency_ms_max=9)).verdict is (Verdict.WAIT)


def test_a_worker_above_its_memory_budget_rolls_back() -> None:
    """At once: nothing has to be waited for."""
    budget = within(memory_bytes_max=100)
    assert decide(Facts(0.0, 0.0, memory_bytes=101), budget).verdict is Verdict.ROLL_BACK
    assert decide(Facts(0.0, 0.0, memory_bytes=100), budget).verdict is Verdict.WAIT
    assert decide(Facts(0.0, 0.0, memory_bytes=101), POLICY).verdict is Verdict.WAIT


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
