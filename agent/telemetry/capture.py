"""Which inputs are kept for retraining, and which of their values. Pure: chance is an argument.

What a policy names is looked up once, when a model begins to serve; then each answer is decided.
The clock is an argument, too; of the machine's time only the zone is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from firmware_bundles.manifest import Tensor
from firmware_bundles.sketches.baseline import Baseline, Column, ColumnKind
from firmware_bundles.wire.messages import Capture
from firmware_bundles.wire.samples import Reason, Span

Reals = NDArray[np.float32]

# Sequence, time, class, reasons and lengths of a row in the journal, generously.
_ROW_BYTES: Final = 64
_FLOAT_BYTES: Final = 4


class _Range(NamedTuple):
    """The values at `positions` are usual from `low` on, below `high`."""

    positions: NDArray[np.int64]
    low: Reals
    high: Reals

    def is_left(self, features: Reals) -> bool:
        """Whether one of them is missing or outside."""
        values = features[self.positions]
        return bool((~((values >= self.low) & (values < self.high))).any())


class Rules(NamedTuple):
    """A policy, looked up for one model. `bytes_each` is what one sample counts in the budget."""

    policy: Capture
    spans: tuple[Span, ...]
    known: _Range
    inner: _Range
    bytes_each: int

    def kept(self, features: Reals) -> Reals:
        """Return the values to keep."""
        return np.concatenate([features[s.first : s.first + s.length] for s in self.spans])


class Spent(NamedTuple):
    """Bytes of samples in one local day, by the number that `day_of` gives it."""

    day: int = 0
    bytes: int = 0


class Unknown(Exception):
    """A policy names what the model does not have."""


def rules_for(
    policy: Capture, inputs: Sequence[Tensor], scores: int, baseline: Baseline | None
) -> Rules:
    """Look up what a policy names in a model's inputs and baseline.

    Raises Unknown where it names an input, or a drifted feature, that there is none of.
    """
    spans = _spans(policy.fields, inputs)
    columns = [] if baseline is None else list(baseline.columns)
    watched = {each.name: each for each in columns if each.kind is ColumnKind.FEATURE}
    missing = sorted(set(policy.drifted) - set(watched))
    if missing:
        raise Unknown(f"the baseline watches no feature {missing[0]!r:.80}")
    values = sum(span.length for span in spans)
    return Rules(
        policy,
        spans,
        known=_range(list(watched.values()), 0),
        inner=_range([watched[name] for name in policy.drifted], 1),
        bytes_each=bytes_of(scores, values),
    )


def decide(rules: Rules, chance: float, scores: Reals, features: Callable[[], Reals]) -> Reason:
    """Return why this input is to be kept, no reason if it is not.

    `chance` is uniform in [0, 1). `features` are all input values, real and 1-D; they are asked for
    only where a rule needs them.
    """
    policy, found = rules.policy, Reason(0)
    if chance < policy.share:
        found |= Reason.SHARE
    # One that is not a number is low, too.
    if policy.confidence_below and len(scores) and not scores.max() >= policy.confidence_below:
        found |= Reason.CONFIDENCE
    if policy.is_out_of_range or policy.drifted:
        values = features()
        if policy.is_out_of_range and (
            rules.known.is_left(values) or not np.isfinite(rules.kept(values)).all()
        ):
            found |= Reason.RANGE
        if policy.drifted and rules.inner.is_left(values):
            found |= Reason.DRIFTED
    return found


def day_of(time_s: float) -> int:
    """Return the number of the local day that a time is in."""
    at = time.localtime(time_s)
    return at.tm_year * 1000 + at.tm_yday


def bytes_of(scores: int, values: int) -> int:
    """Return what a sample of so many numbers counts in the budget."""
    return _ROW_BYTES + _FLOAT_BYTES * (scores + values)


def spend(spent: Spent, day: int, size: int, most: int) -> Spent | None:
    """Return what is spent with one more sample of this size; None if the day has no room."""
    before = spent.bytes if spent.day == day else 0
    return None if before + size > most else Spent(day, before + size)


def _spans(fields: Sequence[str], inputs: Sequence[Tensor]) -> tuple[Span, ...]:
    """Return where the named values lie, joined where they touch."""
    places: set[int] = set()
    start = 0
    known: dict[str, range] = {}
    for tensor in inputs:
        size = int(np.prod(tensor.shape))
        known[tensor.name] = range(start, start + size)
        start += size
    for field in fields:
        places.update(_places(field, known))
    found: list[Span] = []
    for place in sorted(places):
        if found and found[-1].first + found[-1].length == place:
            found[-1] = Span(found[-1].first, found[-1].length + 1)
        else:
            found.append(Span(place, 1))
    return tuple(found)


def _places(field: str, known: dict[str, range]) -> Sequence[int]:
    if field in known:
        return known[field]
    name, bracket, number = field.partition("[")
    index = number.removesuffix("]")
    if bracket and number.endswith("]") and name in known and index.isdecimal():
        place = int(index)
        if place < len(known[name]):
            return [known[name][place]]
    raise Unknown(f"the model has no input {field!r:.80}")


def _range(columns: Sequence[Column], inside: int) -> _Range:
    """Return the ranges of features, `inside` so many bins at either end."""
    ends = [_ends(column.edges, inside) for column in columns]
    return _Range(
        positions=np.array([column.position for column in columns], dtype=np.int64),
        low=np.array([low for low, _ in ends], dtype=np.float32),
        high=np.array([high for _, high in ends], dtype=np.float32),
    )


def _ends(edges: Sequence[float], inside: int) -> tuple[float, float]:
    """Of a feature with too few bins to have an inside, the whole range."""
    enough = len(edges) > 2 * inside + 1
    return (edges[inside], edges[-1 - inside]) if enough else (edges[0], edges[-1])
