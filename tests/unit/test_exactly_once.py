"""Whoever says that all was counted once notices what was not."""

from __future__ import annotations

from collections import Counter

import numpy as np

from firmware_bundles.sketches import codec
from support import exactly_once
from support.bundles import Sample
from support.exactly_once import Stored, Window
from support.simulated.behaviour import Behaviour
from support.simulated.traffic import Traffic

_BASELINE = codec.parse_baseline(Sample().files["baseline.bin"])
_ANSWERED = ["a-1", "a-2", "a-3"]


def _window(first: int, last: int, number: int = 7) -> Window:
    sketch = Traffic(number, Behaviour()).sketch(_BASELINE, np.arange(first, last + 1))
    return Window("a", first, last, last - first + 1, codec.encode_sketch(sketch))


def _stored(*windows: Window, **ids: int) -> Stored:
    found = Counter({name.replace("_", "-"): count for name, count in ids.items()})
    return Stored(found, 3, list(windows))


def test_a_device_of_which_all_is_there_is_well() -> None:
    """Each row once, in one window, and the windows are what was asked."""
    stored = _stored(_window(1, 2), _window(3, 3), a_1=1, a_2=1, a_3=1)
    assert exactly_once.lacking(stored, _ANSWERED) == ""
    assert exactly_once.broken(stored, _ANSWERED, 0) == []
    assert exactly_once.unlike(stored, 7, _BASELINE) == []


def test_what_is_missing_twice_or_overlapping_is_told() -> None:
    """A lost row, one counted twice, one of nobody, windows over the same rows."""
    assert exactly_once.lacking(None, _ANSWERED) == "3 rows, all"
    assert exactly_once.lacking(_stored(_window(1, 1), a_1=1, a_2=1), _ANSWERED)
    twice = _stored(_window(1, 3), _window(2, 3), a_1=2, a_3=1, a_4=1)
    told = " / ".join(exactly_once.broken(twice, _ANSWERED, 0))
    for word in ("a-1 is stored 2 times", "1 answered rows are not", "1 rows are stored", "overlap",
                 "3 predictions are counted of 4"):  # fmt: skip
        assert word in told


def test_a_window_of_other_rows_is_told() -> None:
    """It, and the sum of all windows."""
    told = exactly_once.unlike(_stored(_window(1, 3, number=8)), 7, _BASELINE)
    assert len(told) == 2
