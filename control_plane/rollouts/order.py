"""The order in which a rollout reaches its devices: random, fixed by the ids alone, and even. Pure.

Within a stratum devices stand in the order of a hash of rollout and device. Strata are dealt into
one order so that each beginning of it has of every stratum its share, to within one device: phases
nest, and what they reach looks like the whole.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_HASH_RANGE: Final = 2.0**64
_HASH_BYTES: Final = 8
_HASH_WORDS: Final = 4  # of 64 bits, most significant first


def positions(
    rollout_id: str, devices: Sequence[str], strata: Sequence[str] | None = None
) -> list[int]:
    """Return the position of each device, all of them different; each has its stratum, if given."""
    ranks = _ranks(rollout_id, devices)
    if strata is None or len(set(strata)) <= 1:
        return list(map(int, ranks))
    share = np.empty(len(devices))
    members: dict[str, list[int]] = defaultdict(list)
    for index, stratum in enumerate(strata):
        members[stratum].append(index)
    for stratum, own in members.items():
        ordered = np.asarray(own)[np.argsort(ranks[own])]
        share[ordered] = (np.arange(len(own)) + shift(rollout_id, stratum)) / len(own)
    return list(map(int, _ranked(np.lexsort((ranks, share)))))


def _ranks(rollout_id: str, devices: Sequence[str]) -> Integers:
    """Return where each device stands by its hash alone."""
    hashes = bytearray()
    for device in devices:
        hashes += place(rollout_id, device)
    words = np.frombuffer(hashes, dtype=">u8").reshape(-1, _HASH_WORDS).astype(np.uint64)
    return _ranked(np.lexsort(words.T[::-1]))


def _ranked(ordered: Integers) -> Integers:
    """Return the place of each index in a list of all."""
    found = np.empty_like(ordered)
    found[ordered] = np.arange(len(ordered))
    return found


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
