"""Windows of many devices as one sketch. Which windows those are, the store knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles.errors import WireError
from firmware_bundles.sketches.codec import parse_sketch
from firmware_bundles.sketches.sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firmware_bundles.sketches.baseline import Baseline


class Merged(NamedTuple):
    """A sketch of all windows that could be read, and how many there were of either sort."""

    sketch: Sketch
    windows: int
    unreadable: int


def merge(baseline: Baseline, bodies: Iterable[bytes]) -> Merged:
    """Return the exact sum of window segments that were counted against `baseline`.

    A window that cannot be read, or does not fit any more, is left out and counted.
    """
    sketch, windows, unreadable = Sketch(baseline), 0, 0
    for body in bodies:
        try:
            sketch.merge(parse_sketch(body, baseline))
            windows += 1
        except (WireError, ValueError):
            unreadable += 1
    return Merged(sketch, windows, unreadable)
