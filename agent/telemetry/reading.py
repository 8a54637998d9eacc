"""What a part of the journal says: answers as columns, what is rare row by row. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.store.journal import FRAME_BYTES, Block
from agent.telemetry import answers, rows
from agent.telemetry.answers import Answered, Answers, Payloads
from agent.telemetry.rows import LabelRow, ModelRow, SampleRow

RowT = TypeVar("RowT", LabelRow, SampleRow)


class Found(NamedTuple):
    """The records of a part by kind and model, in their order; `total` of them are no models."""

    models: list[ModelRow]
    predictions: dict[int, Answered]
    shadows: dict[int, Answers]
    labels: dict[int, list[LabelRow]]
    samples: dict[int, list[SampleRow]]
    total: int


def read(part: Sequence[Block]) -> Found:
    """Return what stands in these records of the journal.

    Raises Malformed; the journal's checksum makes that a bug.
    """
    payloads = _joined(part)
    kinds = _kinds(payloads)
    is_prediction = (kinds == rows.PREDICTION) | (kinds == rows.PREDICTION_OF_SEGMENT)
    is_shadow = kinds == rows.SHADOW
    mirrored = answers.parse(payloads.take(is_shadow))
    others = _rows(payloads.take(~(is_prediction | is_shadow)))
    models = [row for row in others if isinstance(row, ModelRow)]
    return Found(
        models=models,
        predictions=answers.parse(payloads.take(is_prediction)),
        shadows={model: found.all for model, found in mirrored.items()},
        labels=_by_model([row for row in others if isinstance(row, LabelRow)]),
        samples=_by_model([row for row in others if isinstance(row, SampleRow)]),
        total=len(kinds) - len(models),
    )


def models(block: Block) -> list[ModelRow]:
    """Return the models of these records alone. Raises Malformed, as `read`."""
    payloads = _joined([block])
    found = _rows(payloads.take(_kinds(payloads) == rows.MODEL))
    return [row for row in found if isinstance(row, ModelRow)]


def _joined(part: Sequence[Block]) -> Payloads:
    data = b"".join(block.data for block in part)
    shifts = np.cumsum([0, *(len(block.data) for block in part)])
    bounds = [
        np.array([block.begin, *block.ends]) + shift
        for block, shift in zip(part, shifts[:-1], strict=True)
    ]
    none = np.zeros(0, dtype=np.int64)
    begins = np.concatenate([none, *(each[:-1] for each in bounds)])
    ends = np.concatenate([none, *(each[1:] for each in bounds)])
    return Payloads(data, begins + FRAME_BYTES, ends)


def _kinds(payloads: Payloads) -> NDArray[np.uint8]:
    return np.frombuffer(payloads.data, dtype=np.uint8)[payloads.starts]


def _rows(payloads: Payloads) -> list[rows.Row]:
    bounds = zip(payloads.starts.tolist(), payloads.ends.tolist(), strict=True)
    return [rows.parse(payloads.data[start:end]) for start, end in bounds]


def _by_model(found: Sequence[RowT]) -> dict[int, list[RowT]]:
    by_model: dict[int, list[RowT]] = defaultdict(list)
    for row in found:
        by_model[row.model].append(row)
    return by_model
