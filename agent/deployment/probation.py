"""Whether a model that has just begun to serve may stay. Pure: facts of the worker in, verdict out.

Only harm that the device itself can see ends a probation; whether the model is any better is the
rollout's question.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from firmware_bundles.wire.messages import Budgets, Policy

# One death may be a power cut's or somebody's kill; three in one probation are the model's.
DEATHS_MAX: Final = 3
# An error share is judged from this many requests on.
REQUESTS_MIN: Final = 20
ERROR_SHARE_MAX: Final = 0.1


class Facts(NamedTuple):
    """What was seen since the probation began; `unready_s` is how long the model has not served.

    `latency_ms` is the mean of all answers, `memory_bytes` what the worker holds now.
    `manifest_latency_ms_max` is what the model's owners promise; 0 where they promise nothing.
    """

    elapsed_s: float
    unready_s: float
    deaths: int = 0
    answered: int = 0
    errors: int = 0
    latency_ms: float = 0.0
    memory_bytes: int = 0
    manifest_latency_ms_max: float = 0.0


class Verdict(StrEnum):
    """What to do with the model."""

    COMMIT = "commit"
    ROLL_BACK = "roll_back"
    WAIT = "wait"


class Decision(NamedTuple):
    """A verdict and the sentence that explains it."""

    verdict: Verdict
    why: str


def decide(facts: Facts, policy: Policy) -> Decision:
    """Return what the facts mean under `policy`; harm is looked for before the time is."""
    requests = facts.answered + facts.errors
    if facts.deaths >= DEATHS_MAX:
        return Decision(
            Verdict.ROLL_BACK, f"the worker died {facts.deaths} times while on probation"
        )
    if requests >= REQUESTS_MIN and facts.errors > ERROR_SHARE_MAX * requests:
        return Decision(
            Verdict.ROLL_BACK,
            f"{facts.errors} of {requests} requests failed; at most {ERROR_SHARE_MAX:.0%} may",
        )
    budgets = policy.budgets or Budgets()  # an older control plane sets none
    latency_ms_max = budgets.latency_ms_max or facts.manifest_latency_ms_max
    if facts.answered >= REQUESTS_MIN and 0 < latency_ms_max < facts.latency_ms:
        return Decision(
            Verdict.ROLL_BACK,
            f"{facts.answered} answers took {facts.latency_ms:.1f} ms in the mean; "
            f"at most {latency_ms_max:g} ms are allowed",
        )
    if 0 < budgets.memory_bytes_max < facts.memory_bytes:
        return Decision(
            Verdict.ROLL_BACK,
            f"the worker holds {facts.memory_bytes} bytes; "
            f"at most {budgets.memory_bytes_max} are allowed",
        )
    if facts.unready_s > policy.self_test_s_max:
        return Decision(
            Verdict.ROLL_BACK, f"the model did not serve for {facts.unready_s:.1f} seconds"
        )
    if facts.elapsed_s < policy.probation_s:
        return Decision(
            Verdict.WAIT, f"{facts.elapsed_s:.1f} of {policy.probation_s:.1f} seconds passed"
        )
    if facts.unready_s > 0:
        return Decision(Verdict.WAIT, "the time is over, but the model does not serve now")
    return Decision(
        Verdict.COMMIT,
        f"{facts.answered} requests answered, {facts.errors} failed in {facts.elapsed_s:.1f} s",
    )
