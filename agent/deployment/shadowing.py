"""Mirrored inputs in a deployment: the candidate's before it serves, the previous model's after.

What the worker compares goes to the control plane as telemetry; here is only when to begin, and
when it was enough. A device without traffic goes on after the time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Protocol

from msgspec import UNSET

from agent import log
from agent.inference.control import Request, Response, Shadow, ShadowStatus, StatusAnswer
from firmware_bundles.errors import SelfTestFailed, ShoalError, WorkerUnavailable

if TYPE_CHECKING:
    from agent.deployment.lifecycle import Record
    from firmware_bundles.wire.messages import Shadowing

_LOOK_S: Final = 1.0
_START_S_MAX: Final = 90.0
_STARTS_MAX: Final = 3

Ask = Callable[[Request, float], Awaitable[Response]]


class Worker(Protocol):
    """What is asked of the inference worker."""

    async def ask(self, request: Request, timeout_s: float) -> Response:
        """Return the answer. Raises WorkerUnavailable or the worker's refusal."""

    async def status(self) -> StatusAnswer:
        """Return what serves. Raises WorkerUnavailable."""


def wanted(record: Record) -> Shadowing | None:
    """Return how this deployment is to be shadowed; None where nothing is there to compare."""
    policy = record.policy.shadow
    return None if policy is UNSET or record.previous is None else policy


def is_held(record: Record) -> bool:
    """Return whether this deployment stays in the shadow until a newer order comes."""
    policy = record.policy.shadow
    return policy is not UNSET and policy.is_held is True


def is_enough(policy: Shadowing, facts: ShadowStatus | None, elapsed_s: float) -> bool:
    """Return whether the candidate has seen enough."""
    if policy.is_held is True:
        return False
    rows = facts.rows if facts is not None else 0
    return elapsed_s >= policy.duration_s or 0 < policy.rows_min <= rows


async def shadow_candidate(record: Record, worker: Worker, ask: Ask) -> None:
    """Mirror to the staged model until that is enough.

    Where the order holds it, that is never: a newer order ends it. Raises SelfTestFailed where the
    candidate cannot follow or its process ends, and as the worker refuses. A worker that restarts
    is asked again.
    """
    policy = wanted(record)
    if policy is None:
        if is_held(record):  # there is nothing to compare with, and nothing may switch
            await asyncio.Event().wait()
        return
    loop = asyncio.get_running_loop()
    ends = loop.time() + policy.duration_s
    incarnations: set[str] = set()
    try:
        while True:
            facts = await _facts(worker, record.family, incarnations)
            if facts is not None and facts.reason:
                raise SelfTestFailed(f"while it saw mirrored inputs: {facts.reason}")
            left_s = ends - loop.time()
            if is_enough(policy, facts, policy.duration_s - left_s):
                _tell(record.family, facts)
                return
            if facts is None:
                if len(incarnations) > _STARTS_MAX:
                    raise SelfTestFailed("the worker died again and again beside the shadow")
                await ask(_request(record.family, record.slot, policy.share), _START_S_MAX)
            await asyncio.sleep(max(0.0, min(_LOOK_S, left_s)))
    finally:
        await end(record, worker)


async def shadow_previous(record: Record, worker: Worker, ask: Ask) -> None:
    """Mirror to the model that served before, on probation; what fails is only told."""
    policy = wanted(record)
    if policy is None or record.previous is None:
        return
    try:
        if await _facts(worker, record.family, set()) is None:
            await ask(_request(record.family, record.previous, policy.share), _START_S_MAX)
    except ShoalError as error:
        log.event("shadow-failed", family=record.family, code=error.code, reason=error.message)


async def end(record: Record, worker: Worker) -> None:
    """Mirror nothing any more; a worker that is not there mirrors nothing."""
    if wanted(record) is not None:
        with suppress(ShoalError):
            await worker.ask(_request(record.family, record.slot, 0.0), _START_S_MAX)


async def _facts(worker: Worker, family: str, incarnations: set[str]) -> ShadowStatus | None:
    try:
        answer = await worker.status()
    except WorkerUnavailable:
        return None
    incarnations.add(answer.incarnation)
    known = answer.families.get(family)
    return known.shadow if known is not None else None


def _request(family: str, name: str, share: float) -> Shadow:
    slot: Literal["A", "B"] = "A" if name == "A" else "B"
    return Shadow(family=family, slot=slot, share=share)


def _tell(family: str, facts: ShadowStatus | None) -> None:
    if facts is not None:
        log.event(
            "shadow-enough",
            family=family,
            rows=facts.rows,
            agreed=facts.agreed,
            dropped=facts.dropped,
            errors=facts.errors,
        )
