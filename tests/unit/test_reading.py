"""Many records of the journal, read at once, say what each says alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.telemetry import reading, rows
from agent.telemetry.answers import Answers, encode_shadows
from agent.telemetry.rows import LabelRow, ModelRow, PredictionRow, Reals, SampleRow
from firmware_bundles.errors import Malformed
from support import journal_rows, spool
from support.journal_rows import ShadowRow

INCARNATION = "0123456789abcdef"
# What three models answer and watch: one without classes, and one that is not watched.
CLASSES, FEATURES = (2, 0, 10), (3, 1, 0)

Row = PredictionRow | LabelRow | SampleRow

numbers = st.integers(1, 2**63 - 1)


def _reals(size: int) -> st.SearchStrategy[Reals]:
    values = st.lists(st.floats(width=32), min_size=size, max_size=size)
    return values.map(lambda some: np.array(some, dtype=np.float32))


@st.composite
def _answers(draw: st.DrawFn, *, is_live: bool = True) -> PredictionRow:
    model = draw(st.integers(0, 2))
    is_watched = is_live and draw(st.booleans())
    return PredictionRow(
        model=model,
        sequence=draw(numbers),
        time_us=draw(numbers),
        predicted=draw(st.integers(-1, 2**31 - 1)),
        latency_us=draw(st.integers(0, 2**32 - 1)),
        scores=draw(_reals(CLASSES[model])),
        watched=draw(_reals(FEATURES[model] if is_watched else 0)),
        segment=draw(st.sampled_from([0, 0, 1, 63])) if is_live else 0,
    )


labels = st.builds(
    lambda model, number, label: LabelRow(model, number, number, INCARNATION, number, label, 1),
    st.integers(0, 2),
    numbers,
    st.integers(-1, 5),
)
samples = st.builds(
    lambda model, number, scores: SampleRow(model, number, 5, 1, 1, ((0, 2),), scores, scores),
    st.integers(0, 2),
    numbers,
    _reals(2),
)
models = st.builds(
    lambda index, digit: ModelRow(index=index, family="digits", digest=digit * 64),
    st.integers(0, 2),
    st.sampled_from("ab"),
)
records = st.lists(
    st.one_of(
        _answers().map(rows.encode_prediction),
        _answers(is_live=False).map(ShadowRow).map(journal_rows.encode_shadow),
        labels.map(rows.encode_label),
        samples.map(rows.encode_sample),
        models.map(rows.encode_model),
    ),
    max_size=40,
)
_WATCHED = spool.prediction(1)
_BARE = _WATCHED._replace(watched=_WATCHED.watched[:0])


@given(records, st.lists(st.integers(0, 40), max_size=3))
def test_records_read_at_once_say_what_each_says_alone(
    written: list[bytes], cuts: list[int]
) -> None:
    """Any mixture, from any number of blocks: the same rows, of the same models, in their order."""
    bounds = sorted({0, len(written), *(min(cut, len(written)) for cut in cuts)})
    parts = [written[a:b] for a, b in pairwise(bounds)]
    blocks = [journal_rows.block(part) for part in parts]
    found = reading.read(blocks)
    alone = [journal_rows.parse(record) for record in written]
    answered = [row for row in alone if isinstance(row, PredictionRow)]
    mirrored = [row.answer for row in alone if isinstance(row, ShadowRow)]
    assert found.models == [row for row in alone if isinstance(row, ModelRow)]
    assert found.models == [model for block in blocks for model in reading.models(block)]
    assert found.total == len(alone) - len(found.models)
    live = {model: _rows(model, each.all) for model, each in found.predictions.items()}
    assert list(live.items()) == list(_by_model([_bare(row) for row in answered]).items())
    watched = [row for row in answered if len(row.watched)]
    counted = {model: _rows(model, *each.watched) for model, each in found.predictions.items()}
    assert {model: each for model, each in counted.items() if each} == _by_model(watched)
    shadows = {model: _rows(model, each) for model, each in found.shadows.items()}
    assert list(shadows.items()) == list(_by_model(mirrored).items())
    for told, kind in ((found.labels, LabelRow), (found.samples, SampleRow)):
        apart = {model: [_plain(row) for row in some] for model, some in told.items()}
        expected = _by_model([row for row in alone if isinstance(row, kind)])
        assert list(apart.items()) == list(expected.items())


@given(st.lists(_answers(is_live=False), min_size=1, max_size=9), st.integers(0, 2))
def test_what_a_shadow_answered_is_written_at_once_as_it_is_one_by_one(
    some: list[PredictionRow], model: int
) -> None:
    """The record of each is that of a prediction, but for its kind."""
    mirrored = [row._replace(scores=some[0].scores, model=model) for row in some]
    alone = [bytes([rows.SHADOW]) + rows.encode_prediction(row)[1:] for row in mirrored]
    assert encode_shadows(model, journal_rows.columns(mirrored)) == alone


@given(_answers().map(rows.encode_prediction), st.data())
@example(rows.encode_prediction(_WATCHED._replace(sequence=2**63)), None)
@example(rows.encode_prediction(_WATCHED._replace(time_us=2**63)), None)
def test_a_record_that_contradicts_itself_is_refused(
    record: bytes, data: st.DataObject | None
) -> None:
    """Cut short, lengthened, or with a changed byte, it is refused where it would be alone."""
    broken = record
    if data is not None:
        place = data.draw(st.integers(0, len(record) - 1))
        change = st.sampled_from([record[:place], record + bytes(4), record + b"\0"])
        flipped = st.just(record[:place] + bytes([record[place] ^ 1]) + record[place + 1 :])
        broken = data.draw((change | flipped).filter(bool))
    whole = rows.encode_prediction(_WATCHED._replace(model=7))
    try:
        row = journal_rows.parse(broken)
    except Malformed:
        with pytest.raises(Malformed):
            journal_rows.read([whole, broken, whole])
    else:
        found = journal_rows.read([whole, broken, whole])
        assert found.total == 3
        if isinstance(row, PredictionRow):
            told = _rows(row.model, found.predictions[row.model].all)
            assert _plain(_bare(row)) in told


def test_one_model_has_vectors_of_one_length() -> None:
    """Else no segment could hold its rows, nor a sketch count them."""
    wider = _WATCHED._replace(scores=np.zeros(3, dtype=np.float32))
    longer = _WATCHED._replace(watched=np.zeros(3, dtype=np.float32))
    for other in (wider, longer):
        with pytest.raises(Malformed, match="unequal length"):
            journal_rows.answered([_WATCHED, other])
    assert len(journal_rows.answered([_WATCHED, _BARE]).all.sequence) == 2


def _plain(row: Row) -> tuple[object, ...]:
    """Return a row that can be compared: its arrays as bytes."""
    return tuple(each.tobytes() if isinstance(each, np.ndarray) else each for each in row)


def _bare(row: PredictionRow) -> PredictionRow:
    return row._replace(watched=row.watched[:0])


def _by_model(some: Sequence[Row]) -> dict[int, list[tuple[object, ...]]]:
    found: dict[int, list[tuple[object, ...]]] = {}
    for row in some:
        found.setdefault(row.model, []).append(_plain(row))
    return found


def _rows(model: int, answers: Answers, features: Reals | None = None) -> list[tuple[object, ...]]:
    """Return columns as rows, with their features or without any."""
    watched = np.zeros((len(answers.sequence), 0), np.float32) if features is None else features
    sequence, time_us, predicted, latency_us, segment, scores = answers
    whole = (each.tolist() for each in (sequence, time_us, predicted, latency_us))
    columns = zip(*whole, scores, watched, segment.tolist(), strict=True)
    return [_plain(PredictionRow(model, *values)) for values in columns]
