"""What this device does now, from its own disk and its worker: works without the core.

Values for `shoal-agent status`; how they look is the command's affair.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from agent import identity as identities
from agent.deployment import slots
from agent.inference import control
from agent.inference.supervisor import CONTROL_SOCKET
from agent.store.state import SlotRecord, State
from firmware_bundles.errors import DeviceError, ShoalError, SlotBroken
from firmware_bundles.wire.messages import BufferFacts, Detection, Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config import Config
    from agent.deployment.lifecycle import Record


_COUNTS: Final = (
    "installed_at",
    "installed_count",
    "activated_at",
    "activated_count",
    "committed_at",
)


class SlotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One slot on disk; `fault` says why it is not usable.

    Times are Unix seconds, 0 for never; `installed_count` counts the bundles that filled it,
    `activated_count` how often the pointer was moved to it.
    """

    name: str
    is_serving: bool
    version: str | None = None
    digest: str | None = None
    mark: str | None = None
    installed_at: float = 0.0
    installed_count: int = 0
    activated_at: float = 0.0
    activated_count: int = 0
    committed_at: float = 0.0
    fault: str | None = None


class FamilyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One family: its slots, its newest deployment, and what the worker answers with."""

    family: str
    slots: tuple[SlotFacts, ...]
    generation: int = 0
    state: str | None = None
    rollout: str | None = None
    fault: Fault | None = None
    waits_for: str | None = None
    worker: control.FamilyStatus | None = None


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The whole device. What could not be read is named in `faults`."""

    state_dir: str
    device: str | None
    server: str | None
    families: tuple[FamilyFacts, ...]
    is_worker_answering: bool
    incarnation: str | None
    buffer: BufferFacts
    detected: tuple[Detection, ...]
    faults: tuple[Fault, ...]


def gather(config: Config) -> DeviceFacts:
    """Return what can be found out; what cannot stands in `faults`."""
    faults: list[Fault] = []
    identity = None
    answer = None
    records: dict[str, Record] = {}
    known: dict[tuple[str, str], SlotRecord] = {}
    detected: tuple[Detection, ...] = ()
    try:
        identity = identities.load(config.state_dir, config.key_file)
    except ShoalError as error:
        faults.append(_fault(error))
    try:
        state = State.open(config.state_dir / "state.db")
        records, detected = state.records(), state.detections()
        known = {(each.family, each.name): each for each in state.slots()}
        state.close()
    except DeviceError as error:
        faults.append(_fault(error))
    try:
        answer = asyncio.run(control.status(config.run_dir / CONTROL_SOCKET, 3.0))
    except ShoalError as error:
        faults.append(_fault(error))
    root = config.state_dir / "slots"
    served = answer.families if answer else {}
    names = sorted({*slots.families(root), *records, *served})
    return DeviceFacts(
        state_dir=str(config.state_dir),
        device=identity.device if identity else None,
        server=identity.server if identity else None,
        families=tuple(
            _family(slots_of(config, name, known), name, records.get(name), served.get(name))
            for name in names
        ),
        is_worker_answering=answer is not None,
        incarnation=answer.incarnation if answer else None,
        buffer=answer.buffer if answer else BufferFacts(),
        detected=detected,
        faults=tuple(faults),
    )


def slots_by_family(config: Config) -> dict[str, tuple[SlotFacts, ...]]:
    """Return the slots of all families; where state.db cannot be read, without counts and times."""
    known: dict[tuple[str, str], SlotRecord] = {}
    with suppress(DeviceError):
        state = State.open(config.state_dir / "state.db")
        known = {(each.family, each.name): each for each in state.slots()}
        state.close()
    root = config.state_dir / "slots"
    return {family: slots_of(config, family, known) for family in slots.families(root)}


def slots_of(
    config: Config, family: str, known: Mapping[tuple[str, str], SlotRecord]
) -> tuple[SlotFacts, ...]:
    """Return both slots of a family, each checked as far as its seal, manifest and files."""
    root = config.state_dir / "slots"
    serving = slots.serving(root, family)
    found = []
    for name in slots.NAMES:
        slot = slots.slot(root, family, name)
        if slot.directory.is_dir():
            found.append(_slot(slot, known.get((family, name)), is_serving=serving == slot))
    return tuple(found)


def _slot(slot: slots.Slot, known: SlotRecord | None, *, is_serving: bool) -> SlotFacts:
    try:
        facts = SlotFacts(
            name=slot.name,
            is_serving=is_serving,
            version=slots.read(slot).version,
            digest=slots.manifest_digest(slot),
            mark=slots.mark_of(slot),
        )
    except SlotBroken as error:
        facts = SlotFacts(name=slot.name, is_serving=is_serving, fault=error.message)
    if known is None:
        return facts
    counts = {name: getattr(known, name) for name in _COUNTS}
    return msgspec.structs.replace(facts, **counts)


def _family(
    found: tuple[SlotFacts, ...],
    family: str,
    record: Record | None,
    worker: control.FamilyStatus | None,
) -> FamilyFacts:
    if record is None:
        return FamilyFacts(family=family, slots=found, worker=worker)
    return FamilyFacts(
        family=family,
        slots=found,
        generation=record.generation,
        state=record.state.value,
        rollout=record.rollout,
        fault=record.fault,
        waits_for=record.waits_for,
        worker=worker,
    )


def _fault(error: ShoalError) -> Fault:
    return Fault(code=error.code, message=error.message[:512])
