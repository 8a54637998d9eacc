"""The order in which a rollout reaches its devices: random, fixed by the ids alone, and even. Pure.

Within a stratum devices stand in the order of a hash of rollout and device. Strata are dealt into
one order so that each beginning of it has of every stratum its share, to within one device: phases
nest, and what they reach looks like the whole. The store works out the same in SQL.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

_HASH_RANGE: Final = 2.0**64
_HASH_BYTES: Final = 8


def arrange(
    rollout_id: str, devices: Iterable[str], strata: Mapping[str, str] | None = None
) -> list[str]:
    """Return the devices by position; without `strata` all are one stratum."""
    groups: dict[str, list[str]] = defaultdict(list)
    for device in set(devices):
        groups[(strata or {}).get(device, "")].append(device)
    placed: list[tuple[float, bytes, str]] = []
    for stratum, members in groups.items():
        ordered = sorted((place(rollout_id, device), device) for device in members)
        first = shift(rollout_id, stratum)
        placed += [
            ((index + first) / len(ordered), hashed, device)
            for index, (hashed, device) in enumerate(ordered)
        ]
    return [device for _, _, device in sorted(placed)]


def place(rollout_id: str, device: str) -> bytes:
    """Return what settles where a device stands in its stratum."""
    return hashlib.sha256(f"{rollout_id}\0{device}".encode()).digest()


def shift(rollout_id: str, stratum: str) -> float:
    """Return where in its first gap a stratum begins, from 0 to 1: not all begin together."""
    return int.from_bytes(place(rollout_id, f"\0{stratum}")[:_HASH_BYTES], "big") / _HASH_RANGE


def slot(rollout_id: str, device: str, attempt: int, slots: int) -> int:
    """Return which of so many slots, from 0, a device tries that comes later.

    It takes the slot of whoever is there, who moves to the new one at the end: a shuffle from the
    inside out, which leaves every order as likely as before.
    """
    hashed = place(rollout_id, f"{device}\0{attempt}")
    return int.from_bytes(hashed[:_HASH_BYTES], "big") % slots
