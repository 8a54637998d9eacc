"""Statements that store segments, all inside one transaction. Reading stands in `telemetry`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from sqlalchemy import bindparam, delete, insert, select

from control_plane.store import arrivals, tallies
from control_plane.store.arrivals import Count, Stored
from control_plane.store.pairs import PairIntake
from control_plane.store.schema import (
    feedback,
    label_count,
    label_pending,
    outcome_count,
    segment,
    value_sum,
)
from control_plane.store.tallies import Place, Sums
from control_plane.telemetry import latency
from control_plane.telemetry.labels import Counted, Given, Truth
from control_plane.telemetry.ranges import holds
from firmware_bundles.wire.columns import UNKNOWN
from firmware_bundles.wire.messages import SegmentKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from sqlalchemy import Connection

    from control_plane.store.arrivals import Sent
    from firmware_bundles.wire.messages import SegmentKey

# In one statement.
_DEVICES_MAX: Final = 500
# The numbers of `tallies.Sums` before its histogram.
_NUMBERS: Final = 4
_NO_ROWS: Final = np.zeros(0, dtype=np.int64)
_LABEL: Final = ""  # what a label is kept under, beside the names of business values


class Unstorable(Exception):
    """Something of a transaction breaks a rule of the schema, now and whenever it is tried."""


class Answers(NamedTuple):
    """A stored predictions segment, as far as labels need it."""

    family: str
    model: str
    body: bytes


class Waiting(NamedTuple):
    """What was told of a prediction that did not come yet."""

    id: int
    truth: Truth


class _Counted(NamedTuple):
    """A new segment: segments, rows, answered and latency in all, and that of its rows."""

    place: Place
    numbers: tuple[int, int, int, int]
    latency_us: NDArray[np.int64]


class Intake:
    """One transaction that stores what devices sent at the time `received`."""

    def __init__(self, connection: Connection, received: float) -> None:
        self._connection = connection
        self._received = received
        self._waiting: set[tuple[str, str]] = set()
        self._hour = tallies.hour_of(received)
        self._counted: list[_Counted] = []
        self.pairs = PairIntake(connection, received)

    def add(self, sent: Sequence[Sent]) -> list[Stored]:
        """Store each segment unless it, or one that overlaps it, is there; say which, in order."""
        self._find_waiting(sent)
        stored = arrivals.store(self._connection, sent, self._received)
        is_new = (one is Stored.NEW for one in stored)
        self.pairs.begin([each for each, new in zip(sent, is_new, strict=True) if new])
        return stored

    def count(self, sent: Sent, latency_us: NDArray[np.int64] | None) -> None:
        """Count what a new segment stands for; written by `finish`.

        `latency_us` is that of its rows, None for a kind without.
        """
        device_id, sealed, work, _ = sent
        place = Place(self._hour, device_id, sealed.family, sealed.model, sealed.key.kind.value)
        answered = work.answered if work else sealed.rows
        total = work.latency_us if work else 0 if latency_us is None else int(latency_us.sum())
        rows = _NO_ROWS if latency_us is None else latency_us
        self._counted.append(_Counted(place, (1, sealed.rows, answered, total), rows))

    def finish(self) -> None:
        """Write what was summed up over the whole batch."""
        found = _summed(self._counted)
        tallies.add(self._connection, found)
        counts = [
            Count(
                *(place.device_id, place.family, place.model),
                *(sums.answered, sums.segments, self._received),
            )
            for place, sums in found
            if place.kind == SegmentKind.PREDICTIONS.value
        ]
        arrivals.count(self._connection, counts)
        self.pairs.finish()

    def remember(self, device_id: str, truths: Sequence[Truth]) -> list[Truth]:
        """Note what was told, and return what of it was not told before."""
        known = self._known(device_id, truths)
        fresh: list[Truth] = []
        rows = []
        for truth in truths:
            subjects = [] if truth.label == UNKNOWN else [_LABEL]
            subjects += [given.name for given in truth.values]
            place = truth.incarnation, truth.sequence
            new = {subject for subject in subjects if (*place, subject) not in known}
            known |= {(*place, subject) for subject in new}
            rows += [(*place, subject) for subject in new]
            if new:
                label = truth.label if _LABEL in new else UNKNOWN
                values = tuple(given for given in truth.values if given.name in new)
                fresh.append(truth._replace(label=label, values=values))
        if rows:
            names = ("incarnation", "sequence", "subject")
            told = [dict(zip(names, row, strict=True)) for row in rows]
            about = {"device_id": device_id, "received": self._received}
            self._connection.execute(insert(feedback), [about | row for row in told])
        return fresh

    def _known(self, device_id: str, truths: Sequence[Truth]) -> set[tuple[str, int, str]]:
        known: set[tuple[str, int, str]] = set()
        for incarnation in {each.incarnation for each in truths}:
            numbers = {each.sequence for each in truths if each.incarnation == incarnation}
            told = select(feedback.c.incarnation, feedback.c.sequence, feedback.c.subject).where(
                feedback.c.device_id == device_id,
                feedback.c.incarnation == incarnation,
                feedback.c.sequence.in_(numbers),
            )
            known |= {(row[0], row[1], row[2]) for row in self._connection.execute(told)}
        return known

    def count_labels(
        self, device_id: str, settled_by: SegmentKey, family: str, model: str, counted: Counted
    ) -> None:
        """Store outcomes and business values that the arrival of a segment settled."""
        about = {
            "device_id": device_id,
            "incarnation": settled_by.incarnation,
            "kind": settled_by.kind.value,
            "first": settled_by.first,
            "model": model,
            "family": family,
            "received": self._received,
        }
        if counted.cells:
            score = {"labelled": counted.labelled, "wrong": counted.wrong}
            self._connection.execute(insert(label_count), about | score)
            cells = [about | c._asdict() | {"count": n} for c, n in counted.cells.items()]
            self._connection.execute(insert(outcome_count), cells)
        if counted.values:
            sums = [
                about | m._asdict() | {"quantum": 2.0**-m.exponent} | s._asdict()
                for m, s in counted.values.items()
            ]
            self._connection.execute(insert(value_sum), sums)

    def answers(
        self, device_id: str, incarnation: str, numbers: Sequence[int]
    ) -> Iterator[Answers]:
        """Yield, one at a time, the stored predictions segments that may hold these numbers.

        Labels of old and new predictions may lie weeks apart: what is between is not read.
        """
        own = segment.c
        of = own.device_id == device_id, own.incarnation == incarnation, own.kind == "predictions"
        wanted = sorted(numbers)
        within = select(own.first, own.last).where(
            *of, own.first <= wanted[-1], own.last >= wanted[0]
        )
        found = [
            first for first, last in self._connection.execute(within) if holds(first, last, wanted)
        ]
        statement = select(own.family, own.model, own.body)
        for first in found:
            one = self._connection.execute(statement.where(*of, own.first == first)).first()
            if one is not None:  # retention may have deleted it in between
                yield Answers._make(one)

    def keep_labels(self, device_id: str, wanted: Sequence[Truth]) -> None:
        """Let what was told wait for its predictions."""
        rows = [
            {
                "device_id": device_id,
                "received": self._received,
                "incarnation": each.incarnation,
                "sequence": each.sequence,
                "label": each.label,
                "brought": [list(given) for given in each.values],
            }
            for each in wanted
        ]
        if rows:
            self._connection.execute(insert(label_pending), rows)
            self._waiting.update((device_id, each.incarnation) for each in wanted)

    def waiting(self, device_id: str, key: SegmentKey) -> list[Waiting]:
        """Return what may wait for this predictions segment."""
        if (device_id, key.incarnation) not in self._waiting:
            return []
        statement = select(label_pending).where(
            label_pending.c.device_id == device_id,
            label_pending.c.incarnation == key.incarnation,
            label_pending.c.sequence.between(key.first, key.last),
        )
        return [
            Waiting(
                row.id,
                Truth(
                    row.incarnation,
                    row.sequence,
                    row.label,
                    tuple(Given(*given) for given in row.brought or ()),
                ),
            )
            for row in self._connection.execute(statement)
        ]

    def settle(self, waited: Sequence[Waiting]) -> None:
        """Forget what waits no longer."""
        if waited:
            statement = delete(label_pending).where(label_pending.c.id == bindparam("waited"))
            self._connection.execute(statement, [{"waited": each.id} for each in waited])

    def _find_waiting(self, sent: Sequence[Sent]) -> None:
        """Note whose labels wait, among those who sent predictions."""
        if self._connection.execute(select(label_pending.c.id).limit(1)).first() is None:
            return
        kind = SegmentKind.PREDICTIONS
        devices = sorted({each.device_id for each in sent if each.sealed.key.kind is kind})
        columns = label_pending.c.device_id, label_pending.c.incarnation
        for start in range(0, len(devices), _DEVICES_MAX):
            some = label_pending.c.device_id.in_(devices[start : start + _DEVICES_MAX])
            found = self._connection.execute(select(*columns).where(some).distinct())
            self._waiting.update((row.device_id, row.incarnation) for row in found)


def _summed(counted: Sequence[_Counted]) -> list[tuple[Place, Sums]]:
    """Add segments up by place, all at once."""
    if not counted:
        return []
    distinct = dict.fromkeys(each.place for each in counted)
    places = {place: at for at, place in enumerate(distinct)}
    numbers = np.array([each.numbers for each in counted], dtype=np.int64)
    histograms = latency.histograms([each.latency_us for each in counted])
    sums = np.zeros((len(places), _NUMBERS + latency.BUCKETS), dtype=np.int64)
    which = [places[each.place] for each in counted]
    np.add.at(sums, which, np.concatenate((numbers, histograms), axis=1))
    return [
        (place, Sums._make((*row[:_NUMBERS], tuple(row[_NUMBERS:]))))
        for place, row in zip(places, sums.tolist(), strict=True)
    ]
