"""Which root of trust counts after an enrolment, and whether it is another fleet's.

A device that is enrolled again after its owners rotated the root's keys is given a newer root than
it knows; one whose control plane was restored from a backup, an older one. Both are of its fleet,
and its floors stay, exactly if signatures lead from the one to the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles.trust.anchors import leads_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRUST_FOLDER: Final = "trust"
_CACHED: Final = "root_history/*.root.json"


class Anchor(NamedTuple):
    """The root to keep, and whether all that was verified before is another fleet's."""

    root: bytes
    is_other_fleet: bool


def choose(known: Sequence[bytes], offered: bytes, former: Sequence[bytes]) -> Anchor:
    """Return what follows from the roots that are `known` and those that the server sent. Pure."""
    every = (*known, *former)
    if not known or any(leads_to(root, offered, every) for root in known):
        return Anchor(offered, is_other_fleet=False)
    later = [root for root in known if leads_to(offered, root, every)]
    return Anchor(later[-1], is_other_fleet=False) if later else Anchor(offered, True)


def known_roots(state_dir: Path, present: Path) -> list[bytes]:
    """Return the roots that this device trusts, in no order but its anchor last. Raises OSError."""
    paths = [*sorted((state_dir / TRUST_FOLDER).glob(_CACHED)), present]
    return [path.read_bytes() for path in paths if path.exists()]
