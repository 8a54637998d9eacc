"""What the control plane stored of a fleet, against what its devices answered."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from control_plane.telemetry.merge import merge
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.wire.columns import decode_predictions
from support.simulated.behaviour import Behaviour
from support.simulated.traffic import Traffic


class Window(NamedTuple):
    """A stored window: of which rows of which incarnation, and its sketch."""

    incarnation: str
    first: int
    last: int
    rows: int
    body: bytes


class Stored(NamedTuple):
    """All that is stored of one device: each row's id as often as it is there, and windows."""

    ids: Counter[str]
    counted: int
    windows: list[Window]


def read(data: Path) -> dict[str, Stored]:
    """Read the database of a control plane, by device."""
    with closing(sqlite3.connect(f"file:{data / 'shoal.db'}?mode=ro", uri=True)) as database:
        segments = database.execute(
            "select device_id, kind, incarnation, first, last, rows, body from segment"
        ).fetchall()
        counts = dict(
            database.execute("select device_id, sum(received) from prediction_count group by 1")
        )
    ids: dict[str, Counter[str]] = defaultdict(Counter)
    windows: dict[str, list[Window]] = defaultdict(list)
    for device, kind, incarnation, first, last, rows, body in segments:
        if kind == "window":
            windows[device].append(Window(incarnation, first, last, rows, body))
        elif kind == "predictions":
            numbers = decode_predictions(body).sequence
            ids[device].update(f"{incarnation}-{number}" for number in numbers)
    return {
        device: Stored(ids[device], counts.get(device, 0), windows[device])
        for device in ids.keys() | windows.keys()
    }


def lacking(stored: Stored | None, answered: list[str]) -> str:
    """Say what has not arrived yet: answered rows, or windows of stored rows; nothing, if all."""
    if stored is None:
        return f"{len(answered)} rows, all" if answered else ""
    missing = len(set(answered) - stored.ids.keys())
    rows = sum(window.rows for window in stored.windows)
    if missing or rows != stored.ids.total():
        return f"{missing} rows, and windows of {stored.ids.total() - rows}"
    return ""


def broken(stored: Stored, answered: list[str], unanswered_max: int) -> list[str]:
    """Return what is wrong with a device's rows and windows; nothing, if all is well.

    `unanswered_max` rows may have been recorded without their answer arriving anywhere.
    """
    wrong = [f"{each} is stored {n} times" for each, n in stored.ids.items() if n > 1]
    if missing := set(answered) - stored.ids.keys():
        wrong.append(f"{len(missing)} answered rows are not stored")
    if len(more := stored.ids.keys() - set(answered)) > unanswered_max:
        wrong.append(f"{len(more)} rows are stored that nobody got; {unanswered_max} may be")
    if stored.counted != stored.ids.total():
        wrong.append(f"{stored.counted} predictions are counted of {stored.ids.total()}")
    for own in _by_incarnation(stored.windows).values():
        ordered = sorted(own)
        wrong += [
            f"windows {a[1:3]} and {b[1:3]} overlap"
            for a, b in pairwise(ordered)
            if b.first <= a.last
        ]
    return wrong


def unlike(stored: Stored, number: int, baseline: Baseline) -> list[str]:
    """Return the windows of a simulated device that are not what it was asked, and their sum."""
    traffic, wrong = Traffic(number, Behaviour()), []
    truth = []
    for window in stored.windows:
        rows = np.arange(window.first, window.last + 1)
        sketch = traffic.sketch(baseline, rows)
        truth.append(sketch_codec.encode_sketch(sketch))
        if truth[-1] != window.body:
            wrong.append(f"window {window[1:4]} of {window.incarnation} is not the truth")
    pooled = merge(baseline, [window.body for window in stored.windows]).sketch
    wanted = merge(baseline, truth).sketch
    if sketch_codec.encode_sketch(pooled) != sketch_codec.encode_sketch(wanted):
        wrong.append("the sum of all windows is not the truth")
    return wrong


def _by_incarnation(windows: list[Window]) -> dict[str, list[Window]]:
    found: dict[str, list[Window]] = defaultdict(list)
    for window in windows:
        found[window.incarnation].append(window)
    return found
