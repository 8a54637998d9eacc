"""From held-out rows and what their owner declares to a baseline, with what may be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET

from firmware_bundles import held_out
from firmware_bundles.sketches import stride as strides
from firmware_bundles.sketches.baseline import ROWS_PER_BIN_MIN, Baseline, Value, make, scale_of
from firmware_bundles.sketches.performance import label_free
from firmware_bundles.sketches.sketch import Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from firmware_bundles.held_out import Declared, Rows

ROWS_GOOD: Final = 5_000
"""From so many rows a shift of .3 standard deviations was found on every simulated device."""
ROWS_POOR: Final = 1_000
"""With so many it was found on half of them."""
WINDOW_ROWS_MIN: Final = 300
_FEATURES_CORRELATED_MAX: Final = 256


class Fitted(NamedTuple):
    """A baseline, and sentences about what may be wrong with the data it came from."""

    baseline: Baseline
    warnings: tuple[str, ...]


def fit(streams: Sequence[Rows], declared: Declared, training: Sequence[Rows] = ()) -> Fitted:
    """Return the baseline of held-out streams, each in order of time.

    `training` are rows that the model was trained on, to be told from these. Raises InputError
    where files do not fit each other.
    """
    rows = held_out.joined(streams)
    stride = _stride(streams, declared)
    made = make(
        rows.inputs,
        rows.scores,
        declared.labels,
        bins=declared.bins,
        stride=stride.rows,
        truth=rows.truth,
        names=rows.names,
        largest=declared.largest,
    )
    window_rows = max(WINDOW_ROWS_MIN, ROWS_PER_BIN_MIN * declared.bins)
    baseline = msgspec.structs.replace(
        made,
        window_rows=declared.window_rows or window_rows,
        segments=("", *declared.segments),
        values=_values(declared),
        cycle_s=UNSET if declared.cycle_s is None else declared.cycle_s,
    )
    warnings = [*_about_training(rows, training), *_about_rows(baseline), *_about(baseline)]
    if stride.is_bounded:
        warnings.append(
            f"rows are still correlated {stride.rows} rows apart: declare the cycle and the column "
            "of the time, or give a longer stream; until then too much will look like drift"
        )
    return Fitted(baseline, tuple(warnings))


def promised(baseline: Baseline) -> float | None:
    """Return the accuracy that the calibration table gives the held-out rows, None without one."""
    found = label_free(Sketch.of_held_out(baseline), is_drifting=False)
    return found.accuracy if found else None


def _values(declared: Declared) -> tuple[Value, ...] | msgspec.UnsetType:
    if not declared.values:
        return UNSET
    named = declared.values.items()
    return tuple(Value(name=name, scale=scale_of(largest)) for name, largest in named)


def _stride(streams: Sequence[Rows], declared: Declared) -> strides.Stride:
    if declared.stride is not None:
        return strides.Stride(declared.stride, is_bounded=False)
    columns = [np.concatenate((_some(each.features), each.scores), axis=1) for each in streams]
    phases = [_phase(each.time, declared.cycle_s) for each in streams]
    return strides.choose([each.astype(np.float64) for each in columns], phases)


def _some(features: NDArray[np.float32]) -> NDArray[np.float32]:
    count = features.shape[1]
    places = np.linspace(0, count - 1, min(count, _FEATURES_CORRELATED_MAX)).astype(int)
    return features[:, np.unique(places)]


def _phase(time: NDArray[np.float64] | None, cycle_s: float | None) -> NDArray[np.float64] | None:
    return None if time is None or cycle_s is None else time % cycle_s / cycle_s


def _about_training(rows: Rows, training: Sequence[Rows]) -> list[str]:
    seen = [held_out.shared_rows(rows.features, each.features) for each in training]
    shared, count = max(seen, default=0), len(rows.scores)
    if not shared:
        return []
    sentence = (
        f"{shared} of {count} rows are in the training data: the model is surer of what it was "
        "trained on, and every device would seem to drift; hold other rows out"
    )
    return [sentence]


def _about_rows(baseline: Baseline) -> list[str]:
    counted = baseline.rows // baseline.stride
    apart = f" ({counted} of them {baseline.stride} apart)" if baseline.stride > 1 else ""
    if counted < ROWS_POOR:
        return [f"{baseline.rows} rows{apart} are few: shifts under .5 sd will hardly be found"]
    if counted < ROWS_GOOD:
        return [f"{baseline.rows} rows{apart}: from {ROWS_GOOD} on small shifts are found surely"]
    return []


def _about(baseline: Baseline) -> list[str]:
    found = []
    if baseline.labels and baseline.right is UNSET:
        found.append("without the true classes there will be no accuracy estimate without labels")
    flat = [
        each.name for each in baseline.columns if len(each.edges) == _FLAT and each.counts[2:-1]
    ]
    if len(flat) > len(baseline.columns) // 2:
        found.append(f"{len(flat)} columns have but one value in these rows, {flat[0]!r} for one")
    return found


_FLAT: Final = 2  # edges of a column whose rows all have one value
