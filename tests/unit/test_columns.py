"""Columns of predictions and labels survive their bytes, and hostile bytes end in an error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles.errors import Malformed, ShoalError, VersionUnsupported
from firmware_bundles.wire import columns, varints
from firmware_bundles.wire.compression import deflate, inflate
from firmware_bundles.wire.told_values import Values

sequences = st.sets(st.integers(1, 2**53 - 1), min_size=1, max_size=50).map(sorted)
classes = st.integers(-1, columns.CLASS_MAX)


@st.composite
def predictions(draw: st.DrawFn) -> columns.Predictions:
    """Rows as a recorder may seal them."""
    sequence = draw(sequences)
    rows = len(sequence)
    width = draw(st.integers(0, 4))
    return columns.Predictions(
        sequence=np.array(sequence),
        time_ms=np.cumsum(draw(_numbers(rows, 2**32))),
        classes=np.array(draw(st.lists(classes, min_size=rows, max_size=rows))),
        latency_us=np.array(draw(_numbers(rows, 2**32))),
        scores=np.array(draw(_numbers(rows * width, 255)), dtype=np.uint8).reshape(rows, width),
        segments=draw(st.none() | _numbers(rows, 63).map(np.array)),
    )


@st.composite
def labels(draw: st.DrawFn) -> columns.Labels:
    """Rows as feedback may seal them."""
    sequence = draw(sequences)
    rows = len(sequence)
    return columns.Labels(
        sequence=np.array(sequence),
        time_ms=np.cumsum(draw(_numbers(rows, 2**32))),
        incarnations=("0123456789abcdef", "f" * 16),
        incarnation=np.array(draw(_numbers(rows, 1))),
        prediction=np.array(draw(_numbers(rows, 2**53 - 1))),
        labels=np.array(draw(_numbers(rows, columns.CLASS_MAX))),
        predicted=np.array(draw(st.lists(classes, min_size=rows, max_size=rows))),
    )


@st.composite
def feedback(draw: st.DrawFn) -> columns.Labels:
    """Rows of format 2: with segments, values, and some of them without a label."""
    rows = draw(labels())
    count = len(rows.sequence)
    names = tuple(draw(st.lists(st.text(min_size=1, max_size=9), max_size=3, unique=True)))
    keys = sorted(draw(st.sets(st.integers(0, count * len(names) - 1)))) if names else []
    values = Values(
        names=names,
        exponents=tuple(draw(st.integers(-100, 100)) for _ in names),
        row=np.array([key // len(names) for key in keys], dtype=np.int64),
        name=np.array([key % len(names) for key in keys], dtype=np.int64),
        quanta=np.array([draw(st.integers(-(2**18), 2**18)) for _ in keys], dtype=np.int64),
    )
    told = rows.labels.copy()
    told[draw(st.lists(st.sampled_from(values.row.tolist())) if keys else st.just([]))] = -1
    places = np.array(draw(st.lists(st.integers(-1, 63), min_size=count, max_size=count)))
    return rows._replace(labels=told, segments=places, values=values)


def _numbers(count: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, most), min_size=count, max_size=count)


@given(predictions())
def test_predictions_survive_their_bytes(rows: columns.Predictions) -> None:
    """Encoding and decoding gives the same rows."""
    again = columns.decode_predictions(columns.encode_predictions(rows))
    for name in (*rows._fields[:-1], "places"):
        assert np.array_equal(getattr(again, name), getattr(rows, name))


@given(labels() | feedback())
def test_labels_survive_their_bytes(rows: columns.Labels) -> None:
    """Encoding and decoding gives the same rows."""
    again = columns.decode_labels(columns.encode_labels(rows))
    assert again.incarnations == rows.incarnations
    for name in ("sequence", "time_ms", "incarnation", "prediction", "labels", "predicted"):
        assert np.array_equal(getattr(again, name), getattr(rows, name))
    assert np.array_equal(again.places, rows.places)
    if len(rows.values.row):
        assert again.values[:2] == rows.values[:2]
        for name in ("row", "name", "quanta"):
            assert np.array_equal(getattr(again.values, name), getattr(rows.values, name))


@pytest.mark.parametrize("decode", [columns.decode_predictions, columns.decode_labels])
@given(data=st.data())
def test_garbage_is_refused(decode: object, data: st.DataObject) -> None:
    """Foreign bytes end in an error of the project, or in rows within the bounds."""
    assert callable(decode)
    body = data.draw(st.binary(max_size=80))
    for foreign in (body, b"\x01" + body, b"\x01" + deflate(body), b"\x02" + deflate(body)):
        try:
            rows = decode(foreign)
        except ShoalError:
            continue
        assert 0 < len(rows.sequence) <= 1024


def test_another_format_is_refused() -> None:
    """A body of an unknown format is not guessed at."""
    with pytest.raises(VersionUnsupported):
        columns.decode_predictions(b"\x03" + deflate(b""))


def test_a_small_message_does_not_become_a_large_one() -> None:
    """Decompression ends at its bound, and takes exactly one stream."""
    with pytest.raises(Malformed, match="more than 1000 bytes"):
        inflate(deflate(bytes(10_000_000)), 1000, "the bomb")
    with pytest.raises(Malformed, match="cut short"):
        inflate(deflate(b"abc")[:-1], 1000, "the stub")
    with pytest.raises(Malformed, match="something follows"):
        inflate(deflate(b"abc") + b"x", 1000, "the pair")


@given(st.lists(st.integers(0, 2**63 - 1), max_size=30), st.binary(max_size=5))
def test_integers_survive_their_bytes(numbers: list[int], tail: bytes) -> None:
    """LEB128 gives every number below 2**63 back, and where it ended."""
    data = varints.encode(np.array(numbers, dtype=np.int64))
    values, end = varints.decode(data + tail, 0, len(numbers), "numbers")
    assert (values.tolist(), end) == (numbers, len(data))


@given(st.lists(st.integers(-(2**62), 2**62 - 1), max_size=20))
def test_signs_survive_zigzag(numbers: list[int]) -> None:
    """Zigzag has no negative numbers and loses none."""
    mapped = varints.zigzag(np.array(numbers, dtype=np.int64))
    assert (mapped >= 0).all()
    assert varints.unzigzag(mapped).tolist() == numbers
