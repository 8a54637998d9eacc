"""Truth that comes later about an earlier prediction, joined with what was answered.

The answer is looked up among the recent ones, then in the buffer. Where the device no longer knows
it, what is told is recorded all the same: the control plane may still have the prediction. What was
told before is not recorded again while it is remembered here; the control plane counts it once in
any case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import isfinite, log2
from typing import Final, NamedTuple

import msgspec
import numpy as np

from agent.store.buffer import Buffer
from agent.telemetry.recent import Answer
from agent.telemetry.recorder import Recorder, Told
from agent.telemetry.recording import Recording
from agent.telemetry.rows import Given
from firmware_bundles.errors import Malformed, NotFound, ShoalError
from firmware_bundles.limits import QUANTUM_MAX
from firmware_bundles.sketches.baseline import Value
from firmware_bundles.wire import codec, columns
from firmware_bundles.wire.messages import Segment

_ID: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,15})")
_LISTED_MAX: Final = 12


class Statement(msgspec.Struct, frozen=True):
    """What is said of one prediction: its id, the name or index of its class, business values."""

    id: str
    label: str | int | None = None
    values: dict[str, float] = {}


class _Found(NamedTuple):
    recording: Recording
    predicted: int
    segment: int


class Feedback:
    """Records what is told; `buffer` is a connection for the thread that calls `tell`."""

    def __init__(self, recorder: Recorder, buffer: Buffer) -> None:
        self._recorder = recorder
        self._buffer = buffer

    def tell(self, serving: Recording, labels: Sequence[str], statement: Statement) -> bool:
        """Record what `statement` says of a prediction.

        `serving` is the model that answers now, `labels` its classes. Returns False when all of it
        was told before. Raises Malformed or NotFound.
        """
        incarnation, sequence = _parse(statement.id)
        label = -1 if statement.label is None else _index(statement.label, labels)
        recent = self._recent(statement.id, incarnation, sequence)
        found = self._found(recent, incarnation, sequence) or _Found(serving, columns.UNKNOWN, -1)
        if found.recording.row.family != serving.row.family:
            raise Malformed(
                f"prediction {statement.id} is of model {found.recording.row.family!r}, "
                f"not {serving.row.family!r}"
            )
        declared = found.recording.values or serving.values
        values = _quantised(statement.values, declared)
        if label < 0 and not values:
            raise Malformed("the feedback says nothing: give 'label', 'values' or both")
        if recent is not None:
            if recent.is_labelled:
                label = -1
            values = {place: given for place, given in values.items() if not _has(recent, place)}
            if label < 0 and not values:
                return False
        told = Told(label, tuple(values.values()), found.predicted, found.segment)
        self._recorder.label(found.recording, incarnation, sequence, told)
        if recent is not None:
            bits = sum(1 << place for place in values)
            self._recorder.recent.mark_told(sequence, is_labelled=label >= 0, values=bits)
        return True

    def _recent(self, prediction: str, incarnation: str, sequence: int) -> Answer | None:
        if incarnation != self._recorder.incarnation:
            return None
        if sequence > self._recorder.last_sequence:
            raise NotFound(f"prediction {prediction} was not made here")
        return self._recorder.recent.find(sequence)

    def _found(self, recent: Answer | None, incarnation: str, sequence: int) -> _Found | None:
        if recent is not None:
            recording = self._recorder.recording(recent.model)
            return _Found(recording, recent.predicted, recent.segment)
        return self._look_up(incarnation, sequence)

    def _look_up(self, incarnation: str, sequence: int) -> _Found | None:
        """Find an older prediction in what the buffer still holds."""
        for body in self._buffer.find(incarnation, sequence):
            try:
                segment = codec.decode(Segment, body)
                rows = columns.decode_predictions(segment.body)
            except ShoalError:
                continue
            place = int(np.searchsorted(rows.sequence, sequence))
            if place < len(rows.sequence) and rows.sequence[place] == sequence:
                recording = self._recorder.use(segment.family, segment.model, b"", None)
                return _Found(recording, int(rows.classes[place]), int(rows.places[place]))
        return None


def _has(recent: Answer, place: int) -> bool:
    return bool(recent.values >> place & 1)


def _quantised(values: Mapping[str, float], declared: Sequence[Value]) -> dict[int, Given]:
    """Return the values by their place in the baseline's list. Raises Malformed."""
    names = [each.name for each in declared]
    found: dict[int, Given] = {}
    for name, value in values.items():
        if name not in names:
            known = f"expected {_listed(names)}" if names else "this model declares none"
            raise Malformed(f"value {name!r:.80} is not declared by the model's baseline; {known}")
        if not isfinite(value):
            raise Malformed(f"value {name!r:.80} is not finite")
        place = names.index(name)
        scale = declared[place].scale
        limit = QUANTUM_MAX / scale
        quanta = round(max(-limit, min(limit, value)) * scale)
        found[place] = Given(name, int(log2(scale)), quanta)
    return found


def _parse(prediction: str) -> tuple[str, int]:
    match = _ID.fullmatch(prediction)
    if match is None or int(match[2]) >= columns.SEQUENCE_MAX:
        raise Malformed(
            f"{prediction!r:.80} is not the id of a prediction; "
            "expected the 'prediction_id' of an answer"
        )
    return match[1], int(match[2])


def _index(label: str | int, labels: Sequence[str]) -> int:
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    if isinstance(label, int) and 0 <= label < len(labels):
        return label
    if not labels:
        raise Malformed("this model names no classes: there is nothing to tell it")
    raise Malformed(
        f"label {label!r:.80} is unknown; expected one of {_listed(labels)} "
        f"or an index from 0 to {len(labels) - 1}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED_MAX]) + (", ..." if len(names) > _LISTED_MAX else "")
