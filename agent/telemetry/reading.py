"""What a part of the journal says: answers as columns, what is rare row by row. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from agent.store.journal import Block
from agent.telemetry import answers, rows
from agent.telemetry.answers import Answered, Answers, Payloads
from agent.telemetry.rows import LabelRow, ModelRow, SampleRow

_PREDICTIONS: Final = (rows.PREDICTION, rows.PREDICTION_OF_SEGMENT)

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
    is_prediction = np.isin(kinds, _PREDICTIONS)
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
    shift = np.repeat(shifts[:-1], [len(block.starts) for block in part])
    starts = np.array([start for block in part for start in block.starts], dtype=np.int64)
    ends = np.array([end for block in part for end in block.ends], dtype=np.int64)
    return Payloads(data, starts + shift, ends + shift)


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
