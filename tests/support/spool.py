"""A spool without a worker: rows go in, segments come out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from agent.store import buffer_schema
from agent.store.buffer import Buffer
from agent.telemetry.rows import LabelRow, ModelRow, PredictionRow
from firmware_bundles.sketches import baseline, codec
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import codec as wire
from firmware_bundles.wire import columns
from firmware_bundles.wire.messages import Segment, SegmentKind

_SOME = np.random.default_rng(5)
FACTS = baseline.make(
    {"x": _SOME.normal(0, 1, (60, 2)).astype(np.float32)},
    _SOME.dirichlet([1.0, 1.0], 60).astype(np.float32),
    ("no", "yes"),
    bins=1,  # a window of 30 rows
)
MODEL = ModelRow(index=0, family="digits", digest="d" * 64, baseline=codec.encode_baseline(FACTS))


def make(folder: Path, bytes_max: int = 16 * 1024 * 1024) -> Buffer:
    """Return a buffer in `folder`, made on the first call."""
    path = folder / "buffer.db"
    if not path.exists():
        buffer_schema.migrate(path)
    return Buffer(path, bytes_max)


def prediction(sequence: int) -> PredictionRow:
    """Return the row with this number; its contents follow from it."""
    rng = np.random.default_rng(sequence)
    scores = rng.dirichlet([1.0, 1.0]).astype(np.float32)
    watched = rng.normal(0, 1, 2).astype(np.float32)
    time_us = 1_790_000_000_000_000 + sequence * 1000
    return PredictionRow(0, sequence, time_us, int(scores.argmax()), 40, scores, watched)


def label(sequence: int, incarnation: str) -> LabelRow:
    """Return a label row for the prediction with the same number."""
    return LabelRow(0, sequence, 1_790_000_000_000_000, incarnation, sequence, 1, 0)


def segments(buffer: Buffer) -> list[Segment]:
    """Return all segments that wait in the buffer."""
    return [wire.decode(Segment, stored.body) for stored in buffer.waiting(1_000_000)]


def sealed_rows(found: list[Segment], kind: SegmentKind) -> Counter[tuple[str, int]]:
    """Return how often each row (incarnation, sequence) stands in the segments."""
    rows: Counter[tuple[str, int]] = Counter()
    for segment in found:
        if segment.key.kind is not kind:
            continue
        decode = (
            columns.decode_predictions if kind is SegmentKind.PREDICTIONS else columns.decode_labels
        )
        sequence = decode(segment.body).sequence.tolist()
        assert (sequence[0], sequence[-1]) == (segment.key.first, segment.key.last)
        assert len(sequence) == segment.rows
        rows.update((segment.key.incarnation, each) for each in sequence)
    return rows


def merged_windows(found: list[Segment]) -> Sketch:
    """Return the merge of all windows."""
    whole = Sketch(FACTS)
    for segment in found:
        if segment.key.kind is SegmentKind.WINDOW:
            window = codec.parse_sketch(segment.body, FACTS)
            assert window.rows == segment.rows
            whole.merge(window)
    return whole


def counted(sequences: list[int]) -> Sketch:
    """Return the sketch of these rows, counted at once."""
    whole = Sketch(FACTS)
    if sequences:
        rows = [prediction(sequence) for sequence in sequences]
        whole.update(np.stack([row.watched for row in rows]), np.stack([r.scores for r in rows]))
    return whole
