"""What was journalled is sealed exactly once, whatever dies when."""

from __future__ import annotations

import asyncio
import sqlite3
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from agent.store import journal
from agent.store.buffer import Buffer
from agent.store.journal import Journal
from agent.telemetry import rows, sealer, sealing
from agent.telemetry.answers import Answered
from agent.telemetry.recorder import Pace, Recorder
from agent.telemetry.sealer import Sealer, dead
from agent.telemetry.sealing import Model
from firmware_bundles import limits
from firmware_bundles.sketches import baseline, codec
from firmware_bundles.wire import codec as wire
from firmware_bundles.wire import columns
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import journal_rows, spool

INCARNATION = "0123456789abcdef"


class Life:
    """One incarnation that writes and seals like the worker, until it is dropped."""

    def __init__(self, folder: Path, buffer: Buffer, number: int) -> None:
        self.incarnation = f"{number:016x}"
        self.journal = Journal(folder, self.incarnation)
        self.sealer = Sealer(folder, buffer, self.incarnation)
        self.answered = 0
        self._declare()

    def answer(self, count: int) -> None:
        """Append so many predictions, a label after each third."""
        for _ in range(count):
            self.answered += 1
            self.journal.append(rows.encode_prediction(spool.prediction(self.answered)))
            if self.answered % 3 == 0:
                told = spool.label(self.answered // 3, self.incarnation)
                self.journal.append(rows.encode_label(told))

    def rotate(self) -> None:
        """Go on in a new file."""
        self.journal.rotate()
        self._declare()

    def _declare(self) -> None:
        self.journal.append(rows.encode_model(spool.MODEL))


steps = st.lists(
    st.one_of(
        st.integers(1, 70).map(lambda count: ("answer", count)),
        st.sampled_from(["seal", "rotate", "die", "fail", "torn"]).map(lambda verb: (verb, 0)),
    ),
    max_size=14,
)


@settings(deadline=None, max_examples=15)
@given(steps, st.sampled_from([7, sealer.ROWS_MAX]))
def test_every_answer_is_sealed_exactly_once(script: list[tuple[str, int]], most: int) -> None:
    """Deaths, torn tails, failed commits and rotations lose no row and double none.

    Whether all goes in one transaction, or a few rows in each.
    """
    with TemporaryDirectory() as name, patch.object(sealer, "ROWS_MAX", most):
        folder = Path(name)
        buffer = spool.make(folder)
        lives = [Life(folder, buffer, 0)]
        for verb, count in script:
            _step(folder, buffer, lives, verb, count)
        _next(folder, buffer, lives)
        _check(buffer, lives)
        remaining = {file.incarnation for file in journal.files(folder)}
        assert remaining == {lives[-1].incarnation}
        _close(buffer, lives)


def _step(folder: Path, buffer: Buffer, lives: list[Life], verb: str, count: int) -> None:
    life = lives[-1]
    match verb:
        case "answer":
            life.answer(count)
        case "seal":
            life.sealer.seal()
        case "rotate":
            life.rotate()
        case "die":
            _next(folder, buffer, lives)
        case "torn":
            with journal.files(folder)[-1].path.open("ab") as stream:
                stream.write(b"\x99\x00\x00\x00half a record")
            _next(folder, buffer, lives)
        case "fail":
            _fail(buffer, life)


def _next(folder: Path, buffer: Buffer, lives: list[Life]) -> None:
    """The worker dies without a word, the next one recovers."""
    lives.append(Life(folder, buffer, len(lives)))
    for incarnation in dead(folder, buffer, lives[-1].incarnation):
        Sealer(folder, buffer, incarnation).finish()


def _fail(buffer: Buffer, life: Life) -> None:
    """A commit that fails in the middle: another connection holds the database."""
    blocker = sqlite3.connect(buffer.path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    _wait_for_others(buffer, 0)
    try:
        life.answer(1)
        with pytest.raises(sqlite3.OperationalError):
            life.sealer.seal()
    finally:
        _wait_for_others(buffer, 5000)
        blocker.execute("ROLLBACK")
        blocker.close()


def _wait_for_others(buffer: Buffer, busy_ms: int) -> None:
    buffer._connection.execute(f"PRAGMA busy_timeout = {busy_ms}").fetchall()


def _check(buffer: Buffer, lives: list[Life]) -> None:
    found = spool.segments(buffer)
    expected = {(life.incarnation, n) for life in lives for n in range(1, life.answered + 1)}
    sealed = spool.sealed_rows(found, SegmentKind.PREDICTIONS)
    assert set(sealed) == expected
    assert sealed.total() == len(expected)
    labels = {(life.incarnation, n) for life in lives for n in range(1, life.answered // 3 + 1)}
    told = spool.sealed_rows(found, SegmentKind.LABELS)
    assert set(told) == labels
    assert told.total() == len(labels)
    whole = spool.counted([n for life in lives for n in range(1, life.answered + 1)])
    assert codec.encode_sketch(spool.merged_windows(found)) == codec.encode_sketch(whole)


def _answered(numbers: Iterable[int]) -> Answered:
    return journal_rows.answered([spool.prediction(number) for number in numbers])


def _close(buffer: Buffer, lives: list[Life]) -> None:
    for life in lives:
        life.journal.close()
    buffer.close()


def test_a_window_closes_when_it_is_full(tmp_path: Path) -> None:
    """Windows have exactly as many rows as the baseline says; the rest stays open."""
    model = Model("digits", "d" * 64, spool.FACTS)
    windows = sealing.count(None, model, _answered(range(1, 71)).watched)
    assert [(each.first, each.last) for each in windows.closed] == [(1, 30), (31, 60)]
    assert windows.open is not None
    assert (windows.open.first, windows.open.last, windows.open.sketch.rows) == (61, 70, 10)


def test_an_old_window_is_closed_before_it_is_full(tmp_path: Path) -> None:
    """A window that started too long ago is sealed with the rows it has."""
    buffer = spool.make(tmp_path)
    life = Life(tmp_path, buffer, 0)
    life.answer(5)
    life.sealer.seal()
    assert life.sealer.window_started == pytest.approx(1_790_000_000, abs=1)
    life.sealer.seal(windows_before=1_790_000_001)
    kinds = [segment.key.kind for segment in spool.segments(buffer)]
    assert kinds.count(SegmentKind.WINDOW) == 1
    life.sealer.seal(windows_before=1_790_000_001)
    assert len(spool.segments(buffer)) == len(kinds)
    _close(buffer, [life])


def test_a_clock_set_right_does_not_stretch_a_segment() -> None:
    """A jump of the clock by decades, either way, gives a segment that can be read."""
    model = Model("digits", "d" * 64, None)
    first, second, third = (spool.prediction(n) for n in (1, 2, 3))
    jumped = [first._replace(time_us=0), second, third._replace(time_us=5)]
    answered = journal_rows.answered(jumped).all
    (segment,) = sealing.predictions("0" * 16, model, answered).sent
    assert spool.sealed_rows([segment], SegmentKind.PREDICTIONS).total() == 3
    assert segment.started <= segment.ended


def test_many_rows_are_cut_into_segments() -> None:
    """A segment has at most 1,024 rows."""
    model = Model("digits", "d" * 64, None)
    found = sealing.predictions("0" * 16, model, _answered(range(1, 1101)).all)
    assert [segment.rows for segment in found.sent] == [1024, 76]
    assert found.kept == []


@given(st.sets(st.integers(1, 5000), min_size=1, max_size=300), st.floats(0, 1, exclude_max=True))
def test_a_sample_stands_for_all_and_the_rest_is_kept(numbers: set[int], share: float) -> None:
    """Sent and kept rows are all rows, each once; totals count all; sealing again chooses alike."""
    model = Model("digits", "d" * 64, None)
    answered = _answered(sorted(numbers)).all
    split = sealing.predictions(INCARNATION, model, answered, share)
    sequences = [
        columns.decode_predictions(each.body).sequence.tolist()
        for each in (*split.sent, *split.kept)
    ]
    assert sorted(number for some in sequences for number in some) == sorted(numbers)
    assert sum(sealing.stands_for(each) for each in split.sent) == len(numbers)
    for segment in split.sent:
        assert segment.totals is not UNSET
        assert segment.key.first <= sequences[0][0] <= sequences[0][-1] <= segment.key.last
        assert segment.totals.latency_us == 40 * len(numbers)
    assert sealing.predictions(INCARNATION, model, answered, share) == split


def test_a_damaged_journal_is_set_aside_and_counted(tmp_path: Path) -> None:
    """Rows before the damage are sealed; what is behind it lies in a file, and is told once."""
    buffer = spool.make(tmp_path)
    life = Life(tmp_path, buffer, 0)
    life.answer(4)
    (file,) = journal.files(tmp_path)
    body = bytearray(file.path.read_bytes())
    whole = [end for block in journal.read(file) for end in block.ends]
    body[whole[-2] + 20] ^= 1
    file.path.write_bytes(body)
    finished = Sealer(tmp_path, buffer, life.incarnation).finish()
    assert finished == (4, len(body) - whole[-2])
    assert spool.sealed_rows(spool.segments(buffer), SegmentKind.PREDICTIONS).total() == 3
    assert buffer.count("journal_bytes_lost") == finished.bytes_lost
    (aside,) = tmp_path.glob("*.damaged")
    assert aside.read_bytes() == bytes(body)
    assert journal.files(tmp_path) == []
    _close(buffer, [life])


def test_a_long_journal_is_sealed_in_little_memory(tmp_path: Path) -> None:
    """What is held is a part of it, not a file: after an outage a file may be large."""
    buffer = spool.make(tmp_path)
    writing = Journal(tmp_path, INCARNATION)
    writing.append(rows.encode_model(rows.ModelRow(index=0, family="digits", digest="d" * 64)))
    wide = spool.prediction(1)._replace(watched=np.zeros(250, dtype=np.float32))
    for number in range(1, 6001):
        writing.append(rows.encode_prediction(wide._replace(sequence=number)))
    writing.close()
    sealing_it = Sealer(tmp_path, buffer, INCARNATION)
    tracemalloc.start()
    try:
        with patch.object(sealer, "ROWS_MAX", 128):
            assert sealing_it.finish() == (6000, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < writing.bytes / 4
    buffer.close()


def test_a_model_without_classes_is_sealed() -> None:
    """Rows without scores make a segment, too."""
    model = Model("digits", "d" * 64, None)
    bare = spool.prediction(1)
    bare = bare._replace(scores=bare.scores[:0], predicted=-1)
    answered = journal_rows.answered([bare, bare._replace(sequence=2)]).all
    (segment,) = sealing.predictions("0" * 16, model, answered).sent
    assert columns.decode_predictions(segment.body).scores.shape == (2, 0)


def test_a_sample_has_about_its_share() -> None:
    """A tenth of many rows, whatever the incarnation."""
    for incarnation in (INCARNATION, "f" * 16):
        chosen = sealing.sampled(incarnation, np.arange(1, 20_001), 0.1)
        assert chosen.sum() == pytest.approx(2000, rel=0.1)


def test_what_was_sampled_out_is_found_for_a_late_label(tmp_path: Path) -> None:
    """A share leaves, all are counted, and each answer can still be looked up on the device."""
    buffer = spool.make(tmp_path)
    writing = Journal(tmp_path, INCARNATION)
    writing.append(rows.encode_model(spool.MODEL))
    for number in range(1, 101):
        writing.append(rows.encode_prediction(spool.prediction(number)))
    Sealer(tmp_path, buffer, INCARNATION, lambda _family: 0.1).seal()
    (sent,) = [e for e in spool.segments(buffer) if e.key.kind is SegmentKind.PREDICTIONS]
    assert sent.totals is not UNSET
    assert (sent.totals.answered, sent.key.first, sent.key.last) == (100, 1, 100)
    assert 1 <= sent.rows < 30
    for number in (1, 50, 100):
        found = [wire.decode(Segment, body) for body in buffer.find(INCARNATION, number)]
        bodies = [columns.decode_predictions(each.body) for each in found]
        assert [number in body.sequence for body in bodies].count(True) == 1
    writing.close()
    buffer.close()


def test_a_window_that_no_message_can_carry_holds_nothing_up(tmp_path: Path) -> None:
    """It is dropped and counted; the predictions behind it are sealed."""
    rng = np.random.default_rng(1)
    width = 1000
    reals = rng.normal(0, 1, (500, width)).astype(np.float32)
    scores = rng.dirichlet([1.0, 1.0], 500).astype(np.float32)
    facts = baseline.make({"x": reals}, scores, ("no", "yes"), bins=limits.BINS_MAX)
    watched = rng.normal(0, 1, (facts.window_rows, width)).astype(np.float32)
    buffer = spool.make(tmp_path)
    life = Life(tmp_path, buffer, 1)
    life.journal.append(
        rows.encode_model(
            rows.ModelRow(
                index=1, family="big", digest="e" * 64, baseline=codec.encode_baseline(facts)
            )
        )
    )
    for number, values in enumerate(watched, start=1):
        row = spool.prediction(number)._replace(model=1, watched=values)
        life.journal.append(rows.encode_prediction(row))
    life.sealer.seal()
    found = spool.segments(buffer)
    assert {each.key.kind for each in found} == {SegmentKind.PREDICTIONS}
    assert sum(each.rows for each in found) == facts.window_rows
    assert buffer.facts().rows_dropped == facts.window_rows
    _close(buffer, [life])


def test_a_journal_that_cannot_be_sealed_keeps_no_other_back(tmp_path: Path) -> None:
    """The dead incarnations are recovered one by one, and the failure is told."""
    buffer = spool.make(tmp_path)
    broken = Journal(tmp_path, "0" * 16)
    broken.append(rows.encode_prediction(spool.prediction(1)))  # of a model that is not there
    broken.close()
    life = Life(tmp_path, buffer, 1)
    life.answer(2)
    told: list[str] = []

    async def run() -> None:
        stop = asyncio.Event()
        recorder = Recorder(tmp_path, buffer, "f" * 16, Pace(), lambda name, **_: told.append(name))
        running = asyncio.create_task(recorder.run(stop))
        await asyncio.sleep(0.5)
        stop.set()
        await running

    asyncio.run(run())
    assert told == ["recovery_failed", "recovered"]
    assert sum(spool.sealed_rows(spool.segments(buffer), SegmentKind.PREDICTIONS).values()) == 2
    _close(buffer, [life])


def test_a_row_of_the_turn_in_which_is_sealed_is_sealed_with_it(tmp_path: Path) -> None:
    """It was counted, so it must be in the file: else nobody would come for it."""
    buffer = spool.make(tmp_path)

    async def run() -> None:
        recorder = Recorder(tmp_path, buffer, "f" * 16, Pace(), lambda *_, **__: None)
        recording = recorder.use("digits", "d" * 64, b"", None)

        def answer() -> None:
            scores = np.zeros(2, dtype=np.float32)
            recorder.prediction(
                recording, predicted=1, latency_us=5, scores=scores, features=lambda: scores
            )

        answer()
        flushing = asyncio.ensure_future(recorder._flush(is_last=True))
        await asyncio.sleep(0)  # the first row is written, and on its way to the disk
        answer()
        await flushing
        assert not recorder.has_unsealed
        stop = asyncio.Event()
        found = spool.sealed_rows(spool.segments(buffer), SegmentKind.PREDICTIONS)
        assert sum(found.values()) == 2
        stop.set()
        await recorder.run(stop)

    asyncio.run(run())
    buffer.close()
