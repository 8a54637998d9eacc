"""Going back to what proved itself: pointers that a start mends, and what a person reverts.

The worker falls back by itself, with the same rule (`slots.serving`, `slots.is_good`); this makes
it last. Nothing here moves a pointer that an open deployment is about to move.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.deployment import lifecycle, slots
from firmware_bundles.errors import ShoalError, SlotBroken
from firmware_bundles.wire.messages import DeploymentState, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from agent.deployment.lifecycle import Record


def mend(
    root: Path, family: str, record: Record | None, detect: Callable[[ShoalError], None]
) -> bool:
    """Mend one family's pointer; return whether it changed, for then the worker must follow."""
    if record is not None and lifecycle.is_open(record):
        if record.state not in lifecycle.BEFORE_SWITCHING:
            return False  # the state's own step sets the pointer
        return _restore(root, family, record.previous)
    is_restored = _restore(root, family, _wanted(record))
    serving, other = slots.serving(root, family), slots.other(root, family)
    try:
        if serving is not None:
            slots.read(serving)
    except SlotBroken as error:
        detect(error)
        if slots.is_good(other) and slots.is_whole(other):
            slots.switch(root, other)
            return True
    return is_restored


def lost(root: Path, records: Mapping[str, Record]) -> frozenset[str]:
    """Return the families of which no whole model is left that may serve. Reads all they have.

    Only of what was committed: a release that failed is not fetched a second time.
    """
    return frozenset(
        family
        for family, record in records.items()
        if record.state is DeploymentState.COMMITTED and not _has_model(root, family)
    )


def _has_model(root: Path, family: str) -> bool:
    serving, other = slots.serving(root, family), slots.other(root, family)
    if serving is not None and slots.is_whole(serving):
        return True
    return slots.is_good(other) and slots.is_whole(other)


def reverted(root: Path, record: Record, fault: Fault) -> Record:
    """Return the record with which an ended deployment goes back to the other slot.

    Raises SlotBroken where that holds no whole model that proved itself.
    """
    serving, other = slots.serving(root, record.family), slots.other(root, record.family)
    if serving is None:
        raise SlotBroken(f"nothing of {record.family} serves: there is nothing to go back from")
    slots.read(other)
    if not slots.is_good(other):
        raise SlotBroken(
            f"slot {other.family}/{other.name} is not marked good",
            hint="If you are sure of it: 'shoal-agent mark good other', then again.",
        )
    return lifecycle.revert(record, slot=serving.name, previous=other.name, fault=fault)


def _wanted(record: Record | None) -> str | None:
    """Return the slot that an ended deployment left serving."""
    if record is None:
        return None
    return record.slot if record.state is DeploymentState.COMMITTED else record.previous


def _restore(root: Path, family: str, wanted: str | None) -> bool:
    """Write a lost pointer anew: what the record says, else the last that proved itself."""
    if slots.has_pointer(root, family):
        return False
    slot = slots.slot(root, family, wanted) if wanted else slots.serving(root, family)
    if slot is None or not slots.is_whole(slot):
        slot = slots.serving(root, family)
    if slot is None:
        return False
    slots.switch(root, slot)
    return True
