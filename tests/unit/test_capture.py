"""Which inputs are captured, what is kept of them, and what becomes of them on the device."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment import captures, slots
from agent.store.buffer import Sealed
from agent.store.journal import Position
from agent.telemetry import capture, rows, sample_sealing
from agent.telemetry.capture import Spent
from agent.telemetry.recorder import Pace, Recorder
from agent.telemetry.sealing import Model
from firmware_bundles.errors import Malformed
from firmware_bundles.limits import TELEMETRY_BYTES_MAX
from firmware_bundles.manifest import Tensor
from firmware_bundles.sketches import baseline
from firmware_bundles.wire import codec, samples
from firmware_bundles.wire.messages import Capture, SegmentKey, SegmentKind
from firmware_bundles.wire.samples import Reason, Samples, Span
from support import spool

INPUTS = (
    Tensor(name="image", datatype="FP32", shape=(1, 2, 2)),
    Tensor(name="age", datatype="FP32", shape=(1,)),
)
_SOME = np.random.default_rng(9)
BASELINE = baseline.make(
    {
        "image": _SOME.uniform(0, 1, (400, 4)).astype(np.float32),
        "age": _SOME.uniform(20, 60, (400, 1)).astype(np.float32),
    },
    _SOME.dirichlet([1.0, 1.0], 400).astype(np.float32),
    ("no", "yes"),
)
USUAL = np.array([0.5, 0.5, 0.5, 0.5, 40.0], dtype=np.float32)
SURE = np.array([0.05, 0.95], dtype=np.float32)
UNSURE = np.array([0.45, 0.55], dtype=np.float32)


def _rules(**policy: object) -> capture.Rules:
    wanted = msgspec.convert({"fields": ("image", "age")} | policy, Capture)
    return capture.rules_for(wanted, INPUTS, 2, BASELINE)


def _changed(place: int, value: float) -> capture.Reals:
    features = USUAL.copy()
    features[place] = value
    return features


@pytest.mark.parametrize(
    ("policy", "chance", "scores", "features", "reasons"),
    [
        ({"share": 0.1}, 0.09, SURE, USUAL, Reason.SHARE),
        ({"share": 0.1}, 0.1, SURE, USUAL, Reason(0)),
        ({"confidence_below": 0.6}, 0.5, UNSURE, USUAL, Reason.CONFIDENCE),
        ({"confidence_below": 0.6}, 0.5, SURE, USUAL, Reason(0)),
        ({"confidence_below": 0.6}, 0.5, SURE * np.nan, USUAL, Reason.CONFIDENCE),
        ({"is_out_of_range": True}, 0.5, SURE, USUAL, Reason(0)),
        ({"is_out_of_range": True}, 0.5, SURE, _changed(4, 99.0), Reason.RANGE),
        ({"is_out_of_range": True}, 0.5, SURE, _changed(0, np.nan), Reason.RANGE),
        ({"drifted": ("age",)}, 0.5, SURE, _changed(0, 5.0), None),
        ({"drifted": ("age[0]",)}, 0.5, SURE, _changed(0, 5.0), Reason(0)),
        ({"drifted": ("age[0]",)}, 0.5, SURE, _changed(4, 21.0), Reason.DRIFTED),
        ({"drifted": ("age[0]",)}, 0.5, SURE, USUAL, Reason(0)),
        (
            {"share": 1.0, "confidence_below": 0.6, "is_out_of_range": True},
            *(0.5, UNSURE, _changed(4, 99.0)),
            Reason.SHARE | Reason.CONFIDENCE | Reason.RANGE,
        ),
    ],
)
def test_each_rule_names_its_inputs(
    policy: dict[str, object],
    chance: float,
    scores: capture.Reals,
    features: capture.Reals,
    reasons: Reason | None,
) -> None:
    """An input is captured for all reasons that hold; a policy that names nothing is refused."""
    if reasons is None:
        with pytest.raises(capture.Unknown):
            _rules(**policy)
    else:
        assert capture.decide(_rules(**policy), chance, scores, lambda: features) == reasons


def test_values_are_not_asked_for_without_need() -> None:
    """Chance and confidence decide without the input."""

    def asked() -> capture.Reals:
        raise AssertionError("nobody needs them")

    rules = _rules(share=0.5, confidence_below=0.9)
    assert capture.decide(rules, 0.9, SURE, asked) == Reason(0)


@pytest.mark.parametrize(
    ("fields", "spans"),
    [
        (("image", "age"), (Span(0, 5),)),
        (("age", "image[0]", "image[2]"), (Span(0, 1), Span(2, 1), Span(4, 1))),
        (("image[1]", "image[2]", "image[1]"), (Span(1, 2),)),
        (("image[4]",), None),
        (("image[-1]",), None),
        (("sound",), None),
    ],
)
def test_only_named_values_are_kept(
    fields: tuple[str, ...], spans: tuple[Span, ...] | None
) -> None:
    """Tensors and single values, each once and in order; what is not there is refused."""
    if spans is None:
        with pytest.raises(capture.Unknown, match="no input"):
            _rules(fields=fields, share=1.0)
        return
    rules = _rules(fields=fields, share=1.0)
    assert rules.spans == spans
    features = np.arange(5, dtype=np.float32)
    places = [at for span in spans for at in range(span.first, span.first + span.length)]
    assert rules.kept(features).tolist() == places


def test_a_day_has_a_budget() -> None:
    """Within it samples fit exactly; the next day begins anew, also where a clock goes back."""
    spent: Spent | None = Spent()
    for size in (40, 60):
        assert spent is not None
        spent = capture.spend(spent, 7, size, 100)
    assert spent == Spent(7, 100)
    assert capture.spend(spent, 7, 1, 100) is None
    assert capture.spend(spent, 8, 1, 100) == Spent(8, 1)
    assert capture.spend(spent, 6, 1, 100) == Spent(6, 1)


@st.composite
def sample_columns(draw: st.DrawFn) -> Samples:
    """Samples as a device may seal them."""
    sequence = sorted(draw(st.sets(st.integers(1, 2**53 - 1), min_size=1, max_size=12)))
    count, width = len(sequence), draw(st.integers(0, 3))
    spans = draw(st.sampled_from([(Span(0, 3),), (Span(1, 1), Span(4, 2))]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    return Samples(
        sequence=np.array(sequence),
        time_ms=np.cumsum(random.integers(0, 2**20, count)),
        reasons=random.integers(0, 16, count).astype(np.uint8),
        classes=random.integers(-1, 9, count),
        spans=spans,
        scores=random.normal(size=(count, width)).astype(np.float32),
        values=random.normal(size=(count, 3)).astype(np.float32),
    )


@given(sample_columns())
def test_samples_survive_their_bytes(found: Samples) -> None:
    """Encoding and decoding gives the same values, bit for bit."""
    again = samples.decode_samples(samples.encode_samples(found))
    assert again.spans == found.spans
    for name in ("sequence", "time_ms", "reasons", "classes", "scores", "values"):
        assert np.array_equal(getattr(again, name), getattr(found, name))


def _row(sequence: int, values: int, spans: tuple[tuple[int, int], ...]) -> rows.SampleRow:
    random = np.random.default_rng(sequence)
    return rows.SampleRow(
        *(0, sequence, 1_790_000_000_000_000 + sequence, 1, 3, spans),
        scores=random.normal(size=2).astype(np.float32),
        values=random.normal(size=values).astype(np.float32),
    )


def test_a_row_survives_the_journal() -> None:
    """What is written is read again; a row that is cut short is refused."""
    row = _row(7, 5, ((0, 2), (9, 3)))
    record = rows.encode_sample(row)
    again = rows.parse(record)
    assert isinstance(again, rows.SampleRow)
    assert again[:6] == row[:6]
    assert np.array_equal(again.values, row.values)
    with pytest.raises(Malformed):
        rows.parse(record[:-4])


def test_samples_are_cut_so_that_each_segment_fits_a_message() -> None:
    """Random values cannot be compressed; one input that fits no message is dropped, counted."""
    model = Model("digits", "d" * 64, None)
    many = [_row(number, 3_000, ((0, 3_000),)) for number in range(1, 12)]
    other = [_row(number, 2, ((4, 2),)) for number in range(12, 14)]
    found = sample_sealing.samples(
        "f" * 16, model, [*many, *other, _row(14, 20_000, ((0, 20_000),))]
    )
    assert found.dropped == 1
    assert all(len(codec.encode(each)) <= TELEMETRY_BYTES_MAX for each in found.segments)
    numbers = [
        number
        for each in found.segments
        for number in samples.decode_samples(each.body).sequence.tolist()
    ]
    assert numbers == list(range(1, 14))
    assert {each.key.kind for each in found.segments} == {SegmentKind.SAMPLES}
    (day,) = sample_sealing.days(model, other)
    assert day.bytes == 2 * capture.bytes_of(2, 2)


def test_samples_are_the_first_to_go_and_the_last_to_be_sent(tmp_path: Path) -> None:
    """A full buffer drops them before any prediction, and counts them apart."""
    store = spool.make(tmp_path, bytes_max=512 * 1024)
    kinds = (SegmentKind.SAMPLES, SegmentKind.PREDICTIONS)

    def sealed(kind: SegmentKind, number: int) -> Sealed:
        key = SegmentKey(incarnation="f" * 16, kind=kind, first=number * 10, last=number * 10 + 9)
        return Sealed(key, 10, kind.value.encode() + bytes(9_000))

    for number in range(1, 26):
        store.seal("f" * 16, Position(1, number), [sealed(kind, number) for kind in kinds], [])
    waiting = [each.body[:7] for each in store.waiting(100)]
    assert waiting.index(b"samples") == 25
    assert {each.body[:7] for each in store.waiting(100, with_samples=False)} == {b"predict"}
    for number in range(26, 46):
        store.seal("f" * 16, Position(1, number), [sealed(kinds[1], number)], [])
    facts = store.facts()
    assert (facts.rows_dropped, facts.samples_dropped) == (0, 10 * (70 - facts.segments))
    assert facts.samples_dropped
    store.close()


def test_a_recorder_captures_within_the_budget(tmp_path: Path) -> None:
    """Over it inputs are counted, not kept; what a day has spent survives a restart."""
    store = spool.make(tmp_path)
    size = capture.bytes_of(2, 5)
    rules = _rules(share=1.0, bytes_per_day_max=3 * size)

    def live(incarnation: str, answers: int) -> None:
        async def run() -> None:
            recorder = Recorder(tmp_path, store, incarnation, Pace(), lambda *_a, **_k: None)
            recording = recorder.use("digits", "d" * 64, b"", None)
            recording.capture = rules
            for _ in range(answers):
                recorder.prediction(
                    recording, predicted=1, latency_us=5, scores=SURE, features=lambda: USUAL
                )
            stop = asyncio.Event()
            stop.set()
            await recorder.run(stop)

        asyncio.run(run())

    while time.localtime().tm_hour == 23 and time.localtime().tm_min == 59:
        time.sleep(1)  # the day must not end in between
    live("a" * 16, 2)
    live("b" * 16, 4)
    found = [each for each in spool.segments(store) if each.key.kind is SegmentKind.SAMPLES]
    kept = [samples.decode_samples(each.body) for each in found]
    assert sum(len(each.sequence) for each in kept) == 3
    assert store.facts().samples_dropped == 3
    assert np.array_equal(kept[0].values[0], USUAL)
    assert np.array_equal(kept[0].scores[0], SURE)
    assert store.captured()["digits"][1] == 3 * size
    store.close()


def test_a_policy_is_kept_for_the_model_it_came_with(tmp_path: Path) -> None:
    """The other slot keeps its own; another model's is none; what is damaged is refused."""
    (tmp_path / "digits").mkdir()
    one, two = (slots.slot(tmp_path, "digits", name) for name in slots.NAMES)
    policy = Capture(fields=("image",), share=0.5)
    assert captures.write(one, "a" * 64, policy)
    assert not captures.write(one, "a" * 64, policy)
    assert captures.read(one, "a" * 64) == policy
    assert captures.read(one, "b" * 64) is None
    assert captures.read(two, "a" * 64) is None
    (tmp_path / "digits" / "capture-A.json").write_bytes(b"{")
    with pytest.raises(Malformed):
        captures.read(one, "a" * 64)
