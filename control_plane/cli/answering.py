"""Asks a model for the scores of rows that have none, as devices will: in a child, int8 and all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from control_plane.cli import trial
from firmware_bundles import arrays, golden, model_facts, postprocessing
from firmware_bundles.errors import InputError, RuntimeUnsupported

if TYPE_CHECKING:
    from pathlib import Path

    from firmware_bundles.held_out import Rows
    from firmware_bundles.model_facts import ModelFacts
    from firmware_bundles.sketches.baseline import Reals

_BATCH_BYTES_MAX: Final = 16 * 1024 * 1024


class Asked(NamedTuple):
    """Which model, which of its outputs (None: the only one), and what makes scores of it."""

    model: Path
    output: str | None
    activation: str


def with_scores(rows: Rows, asked: Asked, labels: tuple[str, ...]) -> Rows:
    """Return the rows with what the model answers.

    Raises InputError, ModelUnusable, RuntimeUnsupported, SelfTestFailed.
    """
    if not trial.is_possible():
        raise RuntimeUnsupported(
            "--model needs an interpreter on this machine", hint="Install shoal[agent]."
        )
    facts = model_facts.read(asked.model.read_bytes())
    names = [tensor.name for tensor in facts.outputs]
    output = names[0] if asked.output is None and len(names) == 1 else asked.output
    if output not in names:
        raise InputError(f"the model has the outputs {names}; name one with --scores")
    inputs = _inputs(rows, facts)
    count, width = len(rows.scores), sum(each[0].nbytes for each in inputs.values())
    step = max(1, _BATCH_BYTES_MAX // width)
    found = [
        _answers({k: v[at : at + step] for k, v in inputs.items()}, asked.model, output)
        for at in range(0, count, step)
    ]
    scores = np.concatenate(found)
    if scores.shape[1] < len(labels):
        raise InputError(
            f"output {output!r} has {scores.shape[1]} values, for {len(labels)} classes"
        )
    return rows._replace(
        inputs=inputs,
        scores=postprocessing.activate(scores[:, : len(labels)], asked.activation),
    )


def _inputs(rows: Rows, facts: ModelFacts) -> dict[str, Reals]:
    """Return the rows in the shapes and under the names that the model has."""
    given = list(rows.inputs.values())
    if len(facts.inputs) != 1 or len(given) != 1:
        wanted = [tensor.name for tensor in facts.inputs]
        if set(wanted) != set(rows.inputs):
            raise InputError(f"the model takes {wanted}; the data are {list(rows.inputs)}")
        given = [rows.inputs[name] for name in wanted]
    found: dict[str, Reals] = {}
    for tensor, values in zip(facts.inputs, given, strict=True):
        shape = (len(values), *tensor.shape[1:])
        if values.size != np.prod(shape):
            raise InputError(f"rows of shape {values.shape[1:]} do not fit input {tensor.name!r}")
        found[tensor.name] = values.reshape(shape)
    return found


def _answers(inputs: dict[str, Reals], model: Path, output: str) -> Reals:
    vectors = golden.GoldenVectors(
        inputs={name: arrays.as_golden(values) for name, values in inputs.items()},
        outputs={name: arrays.as_golden(values[:, :1]) for name, values in inputs.items()},
    )
    array = trial.run(model, vectors).outputs[output]
    scores: Reals = np.frombuffer(array.data, dtype="<f4").reshape(array.shape[0], -1)
    return scores
