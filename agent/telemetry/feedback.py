"""Truth that comes later: a label for an earlier prediction, joined with what was answered.

The answer is looked up among the recent ones, then in the buffer. Where the device no longer knows
it, the label is recorded all the same: the control plane may still have the prediction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from agent.store.buffer import Buffer
from agent.telemetry.recorder import Recorder, Recording
from firmware_bundles.errors import Malformed, NotFound, ShoalError
from firmware_bundles.wire import codec, columns
from firmware_bundles.wire.messages import Segment

_ID: Final = re.compile(r"([0-9a-f]{16})-([1-9][0-9]{0,15})")


class _Found(NamedTuple):
    recording: Recording
    predicted: int


class Feedback:
    """Records labels; `buffer` is a connection for the thread that calls `tell`."""

    def __init__(self, recorder: Recorder, buffer: Buffer) -> None:
        self._recorder = recorder
        self._buffer = buffer

    def tell(
        self, serving: Recording, labels: Sequence[str], prediction: str, label: str | int
    ) -> bool:
        """Record that `prediction` should have been `label` (its name or index).

        `serving` is the model that answers now, `labels` its classes. Returns False when a label
        for it was recorded already. Raises Malformed or NotFound.
        """
        incarnation, sequence = _parse(prediction)
        index = _index(label, labels)
        recent = None
        if incarnation == self._recorder.incarnation:
            if sequence > self._recorder.last_sequence:
                raise NotFound(f"prediction {prediction} was not made here")
            recent = self._recorder.recent.find(sequence)
        if recent is not None:
            if recent.is_labelled:
                return False
            found = _Found(self._recorder.recording(recent.model), recent.predicted)
        else:
            found = self._look_up(incarnation, sequence) or _Found(serving, columns.UNKNOWN)
        if found.recording.row.family != serving.row.family:
            raise Malformed(
                f"prediction {prediction} is of model {found.recording.row.family!r}, "
                f"not {serving.row.family!r}"
            )
        self._recorder.label(found.recording, incarnation, sequence, index, found.predicted)
        if recent is not None:
            self._recorder.recent.mark_labelled(sequence)
        return True

    def _look_up(self, incarnation: str, sequence: int) -> _Found | None:
        """Find an older prediction in the segments that were not delivered yet."""
        for body in self._buffer.find(incarnation, sequence):
            try:
                segment = codec.decode(Segment, body)
                rows = columns.decode_predictions(segment.body)
            except ShoalError:
                continue
            place = int(np.searchsorted(rows.sequence, sequence))
            if place < len(rows.sequence) and rows.sequence[place] == sequence:
                recording = self._recorder.use(segment.family, segment.model, b"", None)
                return _Found(recording, int(rows.classes[place]))
        return None


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
    some = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")  # noqa: PLR2004
    raise Malformed(
        f"label {label!r:.80} is unknown; expected one of {some} "
        f"or an index from 0 to {len(labels) - 1}"
    )
