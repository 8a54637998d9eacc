"""A batch of what devices said, cut so that each kind can be handled together. Pure.

What one device said keeps its order; what different devices said has none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles.wire.topics import Up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# In this order a device says things when it connects, so that most batches are one round.
ORDER: Final = (Up.PRESENCE, Up.HELLO, Up.REQUEST, Up.REPORT)


class Said(NamedTuple):
    """One message of a device."""

    device: str
    kind: Up
    payload: bytes


def rounds(messages: Iterable[Said]) -> Iterator[dict[Up, list[Said]]]:
    """Give rounds, each to be handled kind by kind in `ORDER`; all kinds must be of `ORDER`."""
    now: dict[Up, list[Said]] = {}
    reached: dict[str, int] = {}
    for each in messages:
        rank = ORDER.index(each.kind)
        if rank < reached.get(each.device, 0):
            yield _ordered(now)
            now, reached = {}, {}
        reached[each.device] = rank
        now.setdefault(each.kind, []).append(each)
    if now:
        yield _ordered(now)


def _ordered(found: dict[Up, list[Said]]) -> dict[Up, list[Said]]:
    return {kind: found[kind] for kind in ORDER if kind in found}
