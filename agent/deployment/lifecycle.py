"""The life of one deployment on one device, as a table. Pure: no disk, no clock, no worker.

`advance` answers every event in every state, `resume` says where to go on after a stop. The updater
persists the answer before it acts on it. SWITCHING moves the pointer; from COMMITTING and
ROLLING_BACK there is no way but forward, else a cut between a commit and its record would end with
the new model serving and "rolled back" reported.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from firmware_bundles.identifiers import Family, RolloutId
from firmware_bundles.wire.messages import (
    Arm,
    Count,
    DeploymentState,
    Fault,
    ModelReference,
    Order,
    Ordinal,
    Patches,
    Policy,
    Transfer,
)

SCHEMA: Final = 1
PERSISTS_MAX: Final = 28

SlotName = Annotated[str, Meta(pattern=r"\A[AB]\Z")]


class Event(StrEnum):
    """What can happen to a deployment. A child that dies by a signal is an ERROR, at once."""

    DONE = "done"
    ALREADY_SERVING = "already_serving"
    ERROR = "error"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    LOOP_DETECTED = "loop_detected"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One deployment as it is kept on disk, with the policy it began under.

    `attempts` counts unplanned stops in the present state, `persist_count` the steps in all.
    `elapsed_s` is the part of a probation that an earlier run of the agent has seen, `waits_for`
    what keeps the device from going on now, `transfer` what came over the line since the agent's
    start.
    """

    schema: int = SCHEMA
    family: Family
    generation: Ordinal
    model: ModelReference
    rollout: RolloutId
    arm: Arm
    policy: Policy
    slot: SlotName
    previous: SlotName | None
    state: DeploymentState = DeploymentState.FETCHING
    persist_count: Count = 1
    attempts: Count = 0
    is_suspended: bool = False
    elapsed_s: Annotated[float, Meta(ge=0)] = 0.0
    fault: Fault | None = None
    waits_for: str | None = None
    patches: Patches = ()
    transfer: Transfer | None = None


_S = DeploymentState
TERMINAL: Final = frozenset({_S.COMMITTED, _S.ROLLED_BACK, _S.FAILED})
RETRYING: Final = frozenset({_S.COMMITTING, _S.ROLLING_BACK})

# What follows each event. Whoever adds a state fills a row; tests and diagram are made from it.
TRANSITIONS: Final[dict[DeploymentState, dict[Event, DeploymentState]]] = {
    state: {
        Event.DONE: done,
        Event.ALREADY_SERVING: _S.COMMITTED if state is _S.FETCHING else state,
        Event.ERROR: wrong,
        Event.SUPERSEDED: ended,
        Event.CANCELLED: ended,
        Event.LOOP_DETECTED: wrong,
    }
    for state, done, wrong, ended in (
        # state, after DONE, after ERROR, after a newer generation or a person's word
        (_S.FETCHING, _S.STAGING, _S.FAILED, _S.FAILED),
        (_S.STAGING, _S.SELF_TESTING, _S.FAILED, _S.FAILED),
        (_S.SELF_TESTING, _S.SHADOWING, _S.FAILED, _S.FAILED),
        (_S.SHADOWING, _S.SWITCHING, _S.FAILED, _S.FAILED),
        # The pointer may be moving: the probation that follows rolls back.
        (_S.SWITCHING, _S.PROBATION, _S.ROLLING_BACK, _S.SWITCHING),
        (_S.PROBATION, _S.COMMITTING, _S.ROLLING_BACK, _S.ROLLING_BACK),
        (_S.COMMITTING, _S.COMMITTED, _S.COMMITTING, _S.COMMITTING),
        (_S.ROLLING_BACK, _S.ROLLED_BACK, _S.ROLLING_BACK, _S.ROLLING_BACK),
    )
}
# Where the last unplanned stop that `policy.attempts_max` allows leads; all others go on.
EXHAUSTED: Final[dict[DeploymentState, DeploymentState]] = {
    _S.SELF_TESTING: _S.FAILED,
    _S.SHADOWING: _S.FAILED,
    _S.PROBATION: _S.ROLLING_BACK,
}
BEFORE_SWITCHING: Final = frozenset(
    state for state, row in TRANSITIONS.items() if row[Event.ERROR] is _S.FAILED
)
# Where a newer generation or a person's word ends the deployment at the next safe point.
ENDABLE: Final = frozenset(
    state for state, row in TRANSITIONS.items() if row[Event.SUPERSEDED] is not state
)


def begin(order: Order, *, slot: str, previous: str | None) -> Record:
    """Return the record of a deployment that fills `slot` while `previous` serves."""
    return Record(
        family=order.family,
        generation=order.generation,
        model=order.model,
        rollout=order.rollout,
        arm=order.arm,
        policy=order.policy,
        patches=order.patches or (),
        slot=slot,
        previous=previous,
    )


def is_open(record: Record) -> bool:
    """Return whether there is still something to do."""
    return record.state not in TERMINAL


def advance(record: Record, event: Event, fault: Fault | None = None) -> Record:
    """Return the record after `event`; the first `fault` is kept to the end, unless all went well.

    Total: an ended deployment stays as it is.
    """
    if not is_open(record):
        return record
    state = TRANSITIONS[record.state][event]
    is_serving = event is Event.ALREADY_SERVING and state is _S.COMMITTED
    return msgspec.structs.replace(
        record,
        state=state,
        slot=record.previous or record.slot if is_serving else record.slot,
        persist_count=record.persist_count + 1,
        attempts=record.attempts if state is record.state else 0,
        is_suspended=False,
        fault=None if state is _S.COMMITTED else record.fault or fault,
        waits_for=None,
    )


def revert(record: Record, *, slot: str, previous: str, fault: Fault) -> Record:
    """Return an ended deployment on its way back from `slot`, which serves, to `previous`.

    Only a person asks for this. Raises ValueError while the deployment is open.
    """
    if is_open(record):
        raise ValueError(f"{record.family} is {record.state}")
    return msgspec.structs.replace(
        record,
        slot=slot,
        previous=previous,
        state=_S.ROLLING_BACK,
        persist_count=1,
        attempts=0,
        fault=fault,
    )


def suspend(record: Record, *, elapsed_s: float = 0.0) -> Record:
    """Return the record at an orderly stop: the stop will not be held against the model."""
    if not is_open(record):
        return record
    return msgspec.structs.replace(
        record, is_suspended=True, elapsed_s=max(record.elapsed_s, elapsed_s)
    )


def resume(record: Record) -> Record:
    """Return the record after a start of the agent; the same one where nothing is to be persisted.

    In SELF_TESTING, SHADOWING and PROBATION an unplanned stop is counted; `policy.attempts_max`
    of them end the state. Anything else goes on where it was: fetching keeps its chunks, staging
    begins anew, switching reads the pointer.
    """
    if not is_open(record):
        return record
    if record.is_suspended:
        return msgspec.structs.replace(record, is_suspended=False)
    if record.state not in EXHAUSTED:
        return record
    attempts = record.attempts + 1
    counted = msgspec.structs.replace(
        record, attempts=attempts, persist_count=record.persist_count + 1
    )
    if attempts < record.policy.attempts_max:
        return counted
    return msgspec.structs.replace(
        counted,
        state=EXHAUSTED[record.state],
        attempts=0,
        fault=record.fault
        or Fault(
            code="device.deployment_looping",
            message=f"the device stopped {attempts} times without a reason in {record.state}",
        ),
    )


def is_looping(record: Record, *, persists_max: int = PERSISTS_MAX) -> bool:
    """Return whether the record was persisted so often that something must be going in circles.

    Never in COMMITTING and ROLLING_BACK, which only ever retry, nor after the end.
    """
    if record.state in RETRYING or not is_open(record):
        return False
    return record.persist_count >= persists_max
