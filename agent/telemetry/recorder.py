"""Records what the worker answers: a row in the journal before the answer, segments later.

The answering thread only appends to the journal: what several requests at once led to, by one
call. One thread beside it syncs the journal and seals what is due into the buffer. A row that
cannot be recorded is counted; the answer is given all the same, because a full disk must not stop a
device from serving.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.store.buffer import Buffer, DatabaseError, Dropped
from agent.store.journal import Journal
from agent.telemetry.answers import Answers, encode_shadows
from agent.telemetry.capture import Rules, Spent, day_of, decide, spend
from agent.telemetry.recent import Recent
from agent.telemetry.recording import Recording
from agent.telemetry.row_journal import RowJournal
from agent.telemetry.rows import (
    Given,
    LabelRow,
    ModelRow,
    PredictionRow,
    SampleRow,
    encode_label,
    encode_prediction,
    encode_sample,
)
from agent.telemetry.sealer import Sealer, dead
from firmware_bundles.limits import ROWS_PER_SEGMENT_MAX
from firmware_bundles.sketches.baseline import Baseline

Reals = NDArray[np.float32]

_RECOVER_AGAIN_S: Final = 60.0
# How late the window of an idle device may be sealed.
_IDLE_S_MAX: Final = 5.0
_ROTATE_BYTES: Final = 1024 * 1024
_LATENCY_US_MAX: Final = 2**32 - 1


class Pace(NamedTuple):
    """How long rows may wait: for the disk, for a segment, for a window; and how many bytes.

    At most `predictions_share` of single predictions leave the device.
    """

    flush_s: float = 0.2
    segment_age_s: float = 10.0
    window_age_s: float = 3600.0
    journal_bytes_max: int = 64 * 1024 * 1024
    predictions_share: float = 1.0


class Told(NamedTuple):
    """What feedback says of a prediction, and what is known of it; -1 as in `LabelRow`."""

    label: int
    values: tuple[Given, ...]
    predicted: int
    segment: int


class Recorder:
    """The journal of this incarnation, and the thread that seals it. Made by `open`."""

    def __init__(
        self,
        directory: Path,
        buffer: Buffer,
        incarnation: str,
        pace: Pace,
        on_event: Callable[..., None],
    ) -> None:
        self.incarnation = incarnation
        self.recent = Recent()
        self._wake = asyncio.Event()
        self._rows = RowJournal(
            Journal(directory, incarnation), pace.journal_bytes_max, self._wake.set
        )
        self._directory = directory
        self._buffer = buffer
        self._shares: dict[str, float] = {}  # by family; sealers look into it
        self._sealer = Sealer(directory, buffer, incarnation, self._share)
        self._pace = pace
        self._on_event = on_event
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sealer")
        self._recordings: dict[tuple[str, str], Recording] = {}
        self._sequences = {PredictionRow: 0, LabelRow: 0}
        self._window_since: float | None = None
        self._samples_dropped = 0
        self._captured = {name: Spent(*spent) for name, spent in buffer.captured().items()}
        self._random = random.random

    @property
    def last_sequence(self) -> int:
        """The number of the latest prediction of this incarnation, 0 before the first."""
        return self._sequences[PredictionRow]

    @property
    def has_unsealed(self) -> bool:
        """Whether there are rows that no segment holds yet."""
        return self._rows.unsealed_rows > 0

    @property
    def _has_dropped(self) -> bool:
        return bool(self._rows.dropped or self._samples_dropped)

    def use(self, family: str, digest: str, file: bytes, baseline: Baseline | None) -> Recording:
        """Return the recording of a model; `file` is its baseline as it stands in the bundle."""
        known = self._recordings.get((family, digest))
        if known is not None and (known.row.baseline or not file):
            return known
        index = known.row.index if known else len(self._recordings)
        row = ModelRow(index=index, family=family, digest=digest, baseline=file)
        recording = Recording(row, baseline)
        self._recordings[family, digest] = recording
        return recording

    def set_share(self, family: str, share: float) -> None:
        """Let this share of a family's single predictions leave, from the next sealing on."""
        self._shares[family] = share

    def _share(self, family: str) -> float:
        return min(self._shares.get(family, 1.0), self._pace.predictions_share)

    def recording(self, index: int) -> Recording:
        """Return the recording of the model with this number in the journal."""
        return next(each for each in self._recordings.values() if each.row.index == index)

    def prediction(
        self,
        recording: Recording,
        *,
        predicted: int,
        latency_us: int,
        scores: Reals,
        features: Callable[[], Reals],
        segment: int = 0,
    ) -> str:
        """Record one answer and return its id; before the answer leaves, call `write`.

        `scores` and `features` are real and 1-D; the latter are asked for if they are counted.
        `segment` is the place of what the request named in the baseline's list.
        """
        sequence = self._next(PredictionRow)
        index = recording.row.index
        now_us = time.time_ns() // 1000
        latency_us = min(latency_us, _LATENCY_US_MAX)
        watched = recording.watched(features)
        row = PredictionRow(
            index, sequence, now_us, predicted, latency_us, scores, watched, segment
        )
        self._rows.add(recording, encode_prediction(row))
        self.recent.remember(sequence, index, predicted, segment)
        if recording.capture is not None:
            self._capture(recording, recording.capture, row, features)
        return f"{self.incarnation}-{sequence}"

    def shadows(self, recording: Recording, answers: Answers) -> None:
        """Record by one call what a shadow answered, numbered as the live predictions."""
        for record in encode_shadows(recording.row.index, answers):
            self._rows.add(recording, record)
        self._rows.write()

    def _capture(
        self,
        recording: Recording,
        rules: Rules,
        row: PredictionRow,
        features: Callable[[], Reals],
    ) -> None:
        """Record the input of an answer, if the policy wants it and the day has room."""
        reasons = decide(rules, self._random(), row.scores, features)
        if not reasons:
            return
        family = recording.row.family
        spent = spend(
            self._captured.get(family, Spent()),
            day_of(row.time_us / 1_000_000),
            rules.bytes_each,
            rules.policy.bytes_per_day_max,
        )
        if spent is None:
            self._samples_dropped += 1
            return
        self._captured[family] = spent
        sample = SampleRow(
            *(row.model, row.sequence, row.time_us, row.predicted, int(reasons), rules.spans),
            scores=row.scores,
            values=rules.kept(features()),
        )
        self._rows.add(recording, encode_sample(sample))

    def label(self, recording: Recording, incarnation: str, prediction: int, told: Told) -> None:
        """Record what was told of a prediction."""
        row = LabelRow(
            model=recording.row.index,
            sequence=self._next(LabelRow),
            time_us=time.time_ns() // 1000,
            incarnation=incarnation,
            prediction=prediction,
            label=told.label,
            predicted=told.predicted,
            segment=told.segment,
            values=told.values,
        )
        self._rows.add(recording, encode_label(row))
        self._rows.write()

    def write(self) -> None:
        """Write all that was recorded by one call: the death of this process loses none of it."""
        self._rows.write()

    async def run(self, stop: asyncio.Event) -> None:
        """Recover what dead incarnations left, then sync and seal until `stop`, then seal all."""
        loop = asyncio.get_running_loop()
        ending = asyncio.ensure_future(stop.wait())
        ending.add_done_callback(lambda _: self._wake.set())
        recover_at: float | None = time.monotonic()
        while not stop.is_set():
            if recover_at is not None and time.monotonic() >= recover_at:
                is_done = await loop.run_in_executor(self._thread, self._recover)
                recover_at = None if is_done else time.monotonic() + _RECOVER_AGAIN_S
            await self._until_used(stop)
            try:
                async with asyncio.timeout(self._pace.flush_s):
                    await stop.wait()
            except TimeoutError:
                await self._flush(is_last=False)
        await self._flush(is_last=True)
        self._thread.shutdown()
        self._rows.close()

    async def _until_used(self, stop: asyncio.Event) -> None:
        """Sleep while there is nothing to sync or seal: an idle device wakes for windows only."""
        self._wake.clear()
        has_work = not self._rows.is_synced or self.has_unsealed or self._has_dropped
        if not has_work and not stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S_MAX):
                    await self._wake.wait()

    async def _flush(self, *, is_last: bool) -> None:
        loop = asyncio.get_running_loop()
        self._rows.write()
        if not self._rows.is_synced:
            self._rows.is_synced = True
            await self._in_thread(loop, self._rows.sync)
        if not (is_last or self._is_due()):
            return
        self._rows.write()  # what is counted out below is in the file
        dropped = Dropped(self._rows.dropped, self._samples_dropped)
        self._rows.dropped = self._samples_dropped = 0
        rows, size = self._rows.unsealed_rows, self._rows.unsealed_bytes
        before = time.time() - self._pace.window_age_s
        if await self._in_thread(loop, lambda: self._seal(before, dropped)):
            # Rows that came in the meantime are sealed already, or the next time: either is right.
            self._rows.sealed(rows, size)
        else:
            self._rows.dropped += dropped.rows
            self._samples_dropped += dropped.samples
        if self._rows.file_bytes > _ROTATE_BYTES and not is_last:
            self._rotate()

    async def _in_thread(self, loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> bool:
        """Do what touches the disk; a failure is told, and tried again at the next flush."""
        try:
            await loop.run_in_executor(self._thread, work)
        except Exception as error:  # noqa: BLE001 - recording must go on: what waits is counted
            self._rows.is_synced = False
            self._on_event("recorder_failed", error=repr(error))
            return False
        return True

    def _is_due(self) -> bool:
        now = time.monotonic()
        is_old = now - self._rows.since >= self._pace.segment_age_s
        if self.has_unsealed:
            return is_old or self._rows.unsealed_rows >= ROWS_PER_SEGMENT_MAX
        # Without rows a window may still come of age; looking costs one pass now and then.
        is_window_old = (
            self._window_since is not None and now - self._window_since >= self._pace.window_age_s
        )
        return self._has_dropped or is_window_old

    def _seal(self, windows_before: float, dropped: Dropped) -> None:
        self._sealer.seal(
            windows_before=windows_before,
            rows_dropped=dropped.rows,
            samples_dropped=dropped.samples,
        )
        oldest = self._sealer.window_started
        age_s = None if oldest is None else time.time() - oldest
        self._window_since = None if age_s is None else time.monotonic() - age_s

    def _recover(self) -> bool:
        """Seal what dead incarnations left; one that cannot be sealed does not keep others back."""
        is_done = True
        try:
            for each in dead(self._directory, self._buffer, self.incarnation):
                is_done &= self._recover_one(each)
        except (OSError, DatabaseError) as error:
            self._on_event("recovery_failed", error=str(error))
            return False
        return is_done

    def _recover_one(self, incarnation: str) -> bool:
        try:
            found = Sealer(self._directory, self._buffer, incarnation, self._share).finish()
        except Exception as error:  # noqa: BLE001 - as in `_in_thread`
            self._on_event("recovery_failed", incarnation=incarnation, error=repr(error))
            return False
        if found.rows:
            self._on_event("recovered", incarnation=incarnation, rows=found.rows)
        if found.bytes_lost:
            self._on_event("journal_damaged", incarnation=incarnation, bytes=found.bytes_lost)
        return True

    def _rotate(self) -> None:
        try:
            self._rows.rotate()
        except OSError as error:
            self._on_event("recorder_failed", error=str(error))

    def _next(self, kind: type[PredictionRow | LabelRow]) -> int:
        self._sequences[kind] += 1
        return self._sequences[kind]
