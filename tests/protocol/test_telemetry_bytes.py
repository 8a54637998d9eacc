"""The bodies of segments and baselines, byte for byte as devices in the field write them.

These bytes never change: a new format gets a new version number and golden bytes of its own. What
is compared is what stands inside the zlib stream, because another zlib may compress otherwise.
"""

from __future__ import annotations

import zlib

import numpy as np

from firmware_bundles.sketches import codec
from firmware_bundles.sketches.baseline import Baseline, Column, ColumnKind
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import columns

PREDICTIONS = columns.Predictions(
    sequence=np.array([7, 8, 300]),
    time_ms=np.array([0, 20, 1020]),
    classes=np.array([3, -1, 500]),
    latency_us=np.array([41, 40, 70_000]),
    scores=np.array([[255, 0], [1, 254], [128, 127]], dtype=np.uint8),
)
LABELS = columns.Labels(
    sequence=np.array([1, 2]),
    time_ms=np.array([0, 5]),
    incarnations=("0123456789abcdef", "00000000000000ff"),
    incarnation=np.array([1, 0]),
    prediction=np.array([8, 2**40]),
    labels=np.array([4, 0]),
    predicted=np.array([4, -1]),
)
FACTS = Baseline(
    rows=2,
    stride=1,
    window_rows=90,
    features=1,
    labels=("no", "yes"),
    columns=(
        Column(
            name="x[0]",
            kind=ColumnKind.FEATURE,
            edges=(0.0, 0.5, 1.5),
            scale=16384.0,
            counts=(0, 0, 1, 1, 0),
            total=20480,
            total2=285212672,
            minimum=0.25,
            maximum=1.0,
        ),
        Column(
            name="confidence",
            kind=ColumnKind.CONFIDENCE,
            edges=(0.5, 1.0),
            scale=32768.0,
            counts=(0, 0, 2, 0),
            total=40960,
            total2=872415232,
            minimum=0.5,
            maximum=0.75,
        ),
        Column(
            name="class",
            kind=ColumnKind.CLASS,
            edges=(-0.5, 0.5, 1.5),
            scale=16384.0,
            counts=(0, 0, 1, 1, 0),
            total=16384,
            total2=268435456,
            minimum=0.0,
            maximum=1.0,
        ),
    ),
)

PREDICTIONS_BYTES = bytes.fromhex(
    "01789c6366626758ccc420f2825d53e3c32216e6ff5f18fe33fe676c60f8570f0066d9098f"
)
LABELS_BYTES = bytes.fromhex(
    "01789c63626254764def5c7df63d0304fc676460606564e06800010516a008cb7f86ff00b2fb0979"
)
BASELINE_BYTES = bytes.fromhex(
    "01789c9dd03d4ec330140770a727808ba016b1b747600621649cd762e18f2acf51ca0d101b2dec154d9c"
    "080ec101221047c8c8d8b123214ea2a4ddf0f47f4f7ed6cfefc122bb054937a393611ce80807164dc07d"
    "f0de23ae7c1d5dff352fb229501306809e15f406042e5f95dedc03a64c8b502a5c3dc68a4a881797c3ab"
    "f8ae9c4ceb896cae911bae1549c09f01ae72529f7c5c3461e742828c0ac827dfaeb44c87cae00b219e47"
    "12a30d159fe7c456e1f4ebb8bc914aaeb80c653eae47524917aeb1750dc77a635a4dcb4f290615ae53ef"
    "fb961dd6b6cf2a7aac6742068d6addaace7aaa625ff5d355254c50c40ae4e2e1ae3e5acb3f7635695547"
    "5d55b3ff835d65083309e52b4feb5f29f5becf"
)
SKETCH_BYTES = bytes.fromhex(
    "01894db4440110ce1b789c63666400410626086e3820d4d0c0d9d0c0d4d0d0d011082416b0038906a064"
    "831d0303833d0318083802f9f6200c0089f00cb7"
)


def sketch() -> Sketch:
    """Three rows: one in range, one above, one missing."""
    counted = Sketch(FACTS)
    features = np.array([[0.25], [9.0], [np.nan]], dtype=np.float32)
    counted.update(features, np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32))
    return counted


def test_predictions_have_their_bytes() -> None:
    """A predictions body of version 1 is read and written as ever."""
    read = columns.decode_predictions(PREDICTIONS_BYTES)
    for name in PREDICTIONS._fields:
        assert np.array_equal(getattr(read, name), getattr(PREDICTIONS, name))
    _same(columns.encode_predictions(PREDICTIONS), PREDICTIONS_BYTES)


def test_labels_have_their_bytes() -> None:
    """A labels body of version 1 is read and written as ever."""
    read = columns.decode_labels(LABELS_BYTES)
    assert read.incarnations == LABELS.incarnations
    assert read.prediction.tolist() == LABELS.prediction.tolist()
    assert read.predicted.tolist() == LABELS.predicted.tolist()
    _same(columns.encode_labels(LABELS), LABELS_BYTES)


def test_a_baseline_has_its_bytes() -> None:
    """A baseline of version 1 is read and written as ever."""
    assert codec.parse_baseline(BASELINE_BYTES) == FACTS
    _same(codec.encode_baseline(FACTS), BASELINE_BYTES)


def test_a_sketch_has_its_bytes() -> None:
    """A sketch of version 1 is read and written as ever, and names its baseline in its head."""
    read = codec.parse_sketch(SKETCH_BYTES, FACTS)
    assert read.rows == 3
    assert read.counts.tolist() == sketch().counts.tolist()
    _same(codec.encode_sketch(sketch()), SKETCH_BYTES, head=9)


def _same(written: bytes, golden: bytes, head: int = 1) -> None:
    assert written[:head] == golden[:head]
    assert zlib.decompress(written[head:]) == zlib.decompress(golden[head:])
