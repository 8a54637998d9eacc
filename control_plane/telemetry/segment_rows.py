"""The rows of a segment, read and held against what the segment says of them. Pure."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from firmware_bundles import limits
from firmware_bundles.errors import Malformed
from firmware_bundles.wire.columns import Labels, Predictions, decode_labels, decode_predictions
from firmware_bundles.wire.messages import Segment, SegmentKind, Totals
from firmware_bundles.wire.samples import Samples, decode_samples
from firmware_bundles.wire.totals import LATENCY_US_MAX, LOG_MAX

Rows = Predictions | Labels | Samples


def read(sealed: Segment) -> Rows | None:
    """Return the rows, None of a window: it is read against its baseline when windows are merged.

    Raises Malformed or VersionUnsupported.
    """
    rows = _rows(sealed)
    if rows is not None:
        _check_rows(sealed, rows)
    elif sealed.key.last < sealed.key.first:
        raise Malformed("the segment ends before it begins")
    return rows


def _rows(sealed: Segment) -> Rows | None:
    match sealed.key.kind:
        case SegmentKind.PREDICTIONS | SegmentKind.SHADOW:
            return decode_predictions(sealed.body)
        case SegmentKind.LABELS:
            return decode_labels(sealed.body)
        case SegmentKind.SAMPLES:
            return decode_samples(sealed.body)
        case SegmentKind.WINDOW:
            return None


def _check_rows(sealed: Segment, rows: Rows) -> None:
    said = (sealed.key.first, sealed.key.last, sealed.rows)
    found = (int(rows.sequence[0]), int(rows.sequence[-1]), len(rows.sequence))
    if sealed.totals is UNSET and said != found:
        raise Malformed(f"the segment promises first, last, rows {said}, and holds {found}")
    if sealed.totals is not UNSET:
        _check_sample(sealed, sealed.totals.answered, found)
        _check_totals(sealed.totals)


def _check_sample(sealed: Segment, answered: int, found: tuple[int, int, int]) -> None:
    """A sample stands for at most as many predictions as its range has numbers.

    And for no more than a segment without one: sums over a fleet have to stay exact.
    """
    first, last, rows = found
    spans = min(sealed.key.last - sealed.key.first + 1, limits.ROWS_PER_SEGMENT_MAX)
    is_inside = sealed.key.first <= first and last <= sealed.key.last
    if not (is_inside and sealed.rows == rows <= answered <= spans):
        raise Malformed(f"{rows} rows {first}..{last} are no sample of {answered} of {spans}")
    if sealed.key.kind is not SegmentKind.PREDICTIONS:
        raise Malformed(f"{sealed.key.kind.value} are never a sample")


def _check_totals(said: Totals) -> None:
    """Sums of as many latencies as a column may hold."""
    most = said.answered * LATENCY_US_MAX, said.answered * LOG_MAX, said.answered * LOG_MAX**2
    if any(a > b for a, b in zip(msgspec.structs.astuple(said)[1:], most, strict=True)):
        raise Malformed(f"the totals of {said.answered} predictions are larger than can be")
