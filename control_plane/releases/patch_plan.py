"""Which patches are worth making. Pure: releases and counts in, pairs out.

A patch leads upwards only, from what devices run to what they shall run or will soon: going back
finds the former model in the other slot. How one is made stands in `patch_maker`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.store.patches import Pair

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from control_plane.releases.registry import Release
    from control_plane.store.patches import PatchRow

SOURCES_PER_TARGET_MAX: Final = 4
# A patch that saves less than this share is not worth a line in every assignment.
SAVED_SHARE_MIN: Final = 0.1
# Smaller files come as they are.
PATCHED_BYTES_MIN: Final = 4096


class Fleet(NamedTuple):
    """How many devices run each release, and which releases any device shall run; by digest."""

    running: Mapping[str, int]
    wanted: Collection[str]


class Plan(NamedTuple):
    """The pairs still to be made, the most useful first, and those to be forgotten."""

    make: tuple[Pair, ...]
    drop: frozenset[Pair]


def plan(
    releases: Sequence[Release], fleet: Fleet, made: Sequence[PatchRow], bytes_max: int
) -> Plan:
    """Return what to make and what to forget.

    The newest release of each family is a target, because a rollout of it may come, and every one
    that a device shall run. Each has at most SOURCES_PER_TARGET_MAX sources, those that most
    devices run. All that is kept stays below `bytes_max`: beyond it, nothing more is made.
    """
    useful = dict(_useful(releases, fleet))
    known = {row.pair for row in made}
    kept_bytes = sum(row.length for row in made if row.content and row.pair in useful)
    todo = sorted(useful.keys() - known, key=lambda pair: (-useful[pair], pair))
    return Plan(
        make=tuple(todo) if kept_bytes < bytes_max else (),
        drop=frozenset(known - useful.keys()),
    )


def is_worth(patch_bytes: int, full_bytes: int) -> bool:
    """Return whether a patch saves enough of the whole file."""
    return patch_bytes <= (1 - SAVED_SHARE_MIN) * full_bytes


def _useful(releases: Sequence[Release], fleet: Fleet) -> Iterator[tuple[Pair, int]]:
    """Yield the pairs, each with the number of devices that would use it."""
    families: dict[str, list[Release]] = {}
    for release in sorted(releases, key=lambda each: each.number):
        families.setdefault(release.family, []).append(release)
    for family in families.values():
        allowed = [release for release in family if not release.is_withdrawn]
        for target in allowed:
            if target is not allowed[-1] and target.digest not in fleet.wanted:
                continue
            sources = [
                (fleet.running[source.digest], source.digest)
                for source in family
                if source.number < target.number and fleet.running.get(source.digest, 0)
            ]
            for count, source in sorted(sources, reverse=True)[:SOURCES_PER_TARGET_MAX]:
                yield Pair(source, target.digest), count
