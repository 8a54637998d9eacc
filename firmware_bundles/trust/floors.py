"""Versions that may not go back: what was verified once, against what is offered now.

Pure and light. Where floors are kept is the caller's affair: on a device in its database, for the
support tool beside the metadata. A cache that was lost or emptied must not let old metadata in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from firmware_bundles.errors import RollbackAttempt

if TYPE_CHECKING:
    from collections.abc import Mapping


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a role, and the ids of the root's keys on which that number rests."""

    version: int
    keys: tuple[str, ...] = ()


def is_rotated(known: Mark | None, found: Mark) -> bool:
    """Return whether root took a key away since `known` was verified.

    Only then may versions start again, so that owners recover from a fast-forward attack (TUF
    specification 1.0, 5.3.11). A key that was merely added takes no trust back.
    """
    return known is not None and not set(known.keys) <= set(found.keys)


def check(known: Mapping[str, Mark], found: Mapping[str, Mark]) -> None:
    """Raise RollbackAttempt if any role went back under the same keys."""
    for role, mark in found.items():
        floor = known.get(role)
        if floor is None or is_rotated(floor, mark):
            continue
        if mark.version < floor.version:
            raise RollbackAttempt(
                f"role {role!r:.80} went back from version {floor.version} to {mark.version}"
            )


def raised(known: Mapping[str, Mark], found: Mapping[str, Mark]) -> dict[str, Mark]:
    """Return the floors after `found` was verified. Raises RollbackAttempt."""
    check(known, found)
    return {**known, **found}
