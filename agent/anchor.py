"""Which root of trust counts after an enrolment, and whether it is another fleet's.

A device that is enrolled again after its owners rotated the root's keys is given a newer root than
it knows; one whose control plane was restored from a backup, an older one. Both are of its fleet,
and its floors stay, exactly if signatures lead from the one to the other. A root that went another
way from a common beginning is not: a thief of root keys may have led the device astray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles.trust.anchors import leads_to, newest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRUST_FOLDER: Final = "trust"
_CACHED: Final = "root_history/*.root.json"


class Anchor(NamedTuple):
    """The root to keep, and whether all that was verified before is another fleet's."""

    root: bytes
    is_other_fleet: bool


class Known(NamedTuple):
    """The root that this device was enrolled with, and those that it verified since."""

    anchor: bytes
    cached: Sequence[bytes]


def choose(known: Known | None, offered: bytes, former: Sequence[bytes]) -> Anchor:
    """Return what follows from the `known` roots, if any, and those that the server sent. Pure."""
    if known is None:
        return Anchor(offered, is_other_fleet=False)
    last = newest(known.anchor, known.cached)
    if leads_to(last, offered, former):
        return Anchor(offered, is_other_fleet=False)
    if leads_to(offered, last, known.cached):
        return Anchor(last, is_other_fleet=False)
    return Anchor(offered, is_other_fleet=True)


def known_roots(state_dir: Path, present: Path) -> Known | None:
    """Return the roots that this device trusts, if it was enrolled before. Raises OSError."""
    if not present.exists():
        return None
    cached = [path.read_bytes() for path in (state_dir / TRUST_FOLDER).glob(_CACHED)]
    return Known(present.read_bytes(), cached)
