"""Moves what a journal holds into the buffer: segments, window checkpoints and cursor together.

The living worker's journal and those of dead incarnations go the same way, so that recovery is
nothing but sealing what is left. Runs in one thread at a time, apart from the answering one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from agent.store import journal
from agent.store.buffer import Buffer, Dropped, Kept, OpenWindow, Sealed
from agent.store.journal import Block, JournalFile, Position
from agent.telemetry import reading, sample_sealing, sealing
from agent.telemetry.answers import Watched
from agent.telemetry.reading import Found
from agent.telemetry.rows import ModelRow
from agent.telemetry.sample_sealing import Day
from agent.telemetry.sealing import Model, Window
from firmware_bundles import durable
from firmware_bundles.errors import MessageTooLarge, WireError
from firmware_bundles.limits import ROWS_PER_SEGMENT_MAX
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.wire import codec
from firmware_bundles.wire.messages import Segment

# In one transaction: a burst of rows takes no more memory than this many.
ROWS_MAX: Final = 2 * ROWS_PER_SEGMENT_MAX


class Finished(NamedTuple):
    """How many rows of a dead incarnation were sealed, and how many bytes could not be read."""

    rows: int
    bytes_lost: int


class Sealer:
    """Seals the journal of one incarnation; its state is what the buffer and the journal say.

    `share` says how much of a family's single predictions leaves the device.
    """

    def __init__(
        self,
        directory: Path,
        buffer: Buffer,
        incarnation: str,
        share: Callable[[str], float] = lambda _family: 1.0,
    ) -> None:
        self._share = share
        self._directory = directory
        self._buffer = buffer
        self._incarnation = incarnation
        self._cursor = Position()
        self._models: dict[int, Model] = {}
        self._windows: dict[str, Window] = {}
        self._orphans: list[OpenWindow] = []
        self._is_loaded = False

    def seal(
        self, *, windows_before: float = 0.0, rows_dropped: int = 0, samples_dropped: int = 0
    ) -> int:
        """Seal all whole records behind the cursor; return how many rows these were.

        Open windows that started before `windows_before` (Unix seconds) are closed too, and
        what was dropped counted, with the last rows. Raises what the buffer raises; then what is
        not sealed yet stays in the journal, and the next call begins anew.
        """
        if not self._is_loaded:
            self._load()
        try:
            count = 0
            for part in journal.parts(self._blocks(self._cursor), ROWS_MAX):
                is_last = sum(len(block.ends) for block in part) < ROWS_MAX
                dropped = Dropped(rows_dropped, samples_dropped) if is_last else Dropped()
                count += self._seal(part, windows_before if is_last else 0.0, dropped)
            return count
        except BaseException:
            self._is_loaded = False
            raise

    @property
    def window_started(self) -> float | None:
        """When the oldest open window started, in Unix seconds."""
        return min((each.started for each in self._windows.values()), default=None)

    def finish(self) -> Finished:
        """Seal the rest of a dead incarnation, its open windows too, and remove its journal.

        What of it cannot be read is set aside and counted.
        """
        count = self.seal(windows_before=float("inf"))
        lost = 0
        for file in self._files():
            if damaged := journal.set_aside(file):
                lost += damaged
            else:
                file.path.unlink()
        durable.sync_directory(self._directory)
        if lost:
            self._buffer.count_lost(lost)
        self._buffer.forget(self._incarnation)
        return Finished(count, lost)

    def _load(self) -> None:
        """Begin where the last commit ended: models from the journal, windows from the buffer."""
        self._cursor = self._buffer.cursor(self._incarnation)
        self._models, self._windows = {}, {}
        for block in self._blocks(Position()):
            sealed = block.until(self._cursor)
            if sealed is None:
                break
            self._learn(reading.models(sealed))
        by_digest = {model.digest: model for model in self._models.values()}
        self._orphans = []
        for each in self._buffer.windows(self._incarnation):
            model = by_digest.get(each.model)
            if model is None or model.baseline is None:
                # No row will join it: its model is in no file of the journal any more.
                self._orphans.append(each)
                continue
            sketch = sketch_codec.parse_sketch(each.body, model.baseline)
            self._windows[each.model] = Window(
                model, each.first, each.last, each.started, each.ended, sketch
            )
        self._is_loaded = True

    def _seal(self, part: list[Block], windows_before: float, dropped: Dropped) -> int:
        found = reading.read(part)
        self._learn(found.models)
        cursor = part[-1].end if part else self._cursor
        segments, kept = self._segments(found)
        captured = self._samples(found)
        segments += captured.segments
        dropped = dropped._replace(samples=dropped.samples + captured.dropped)
        segments += self._close_windows(windows_before)
        if cursor != self._cursor or segments or any(dropped):
            self._commit(cursor, segments, kept, dropped, self._days(found))
        return found.total

    def _segments(self, found: Found) -> sealing.Split:
        segments, kept = sealing.Split([], [])
        for index, answered in found.predictions.items():
            model = self._models[index]
            share = self._share(model.family)
            split = sealing.predictions(self._incarnation, model, answered.all, share)
            segments += [*split.sent, *self._count(model, answered.watched)]
            kept += split.kept
        for index, told in found.labels.items():
            segments += sealing.labels(self._incarnation, self._models[index], told)
        for index, mirrored in found.shadows.items():
            segments += sealing.shadows(self._incarnation, self._models[index], mirrored)
        return sealing.Split(segments, kept)

    def _samples(self, found: Found) -> sample_sealing.Sealed:
        made = [
            sample_sealing.samples(self._incarnation, self._models[index], captured)
            for index, captured in found.samples.items()
        ]
        segments = [segment for each in made for segment in each.segments]
        return sample_sealing.Sealed(segments, sum(each.dropped for each in made))

    def _days(self, found: Found) -> list[Day]:
        return [
            day
            for index, captured in found.samples.items()
            for day in sample_sealing.days(self._models[index], captured)
        ]

    def _count(self, model: Model, watched: Watched) -> list[Segment]:
        windows = sealing.count(self._windows.pop(model.digest, None), model, watched)
        if windows.open is not None:
            self._windows[model.digest] = windows.open
        return [self._closed(each) for each in windows.closed]

    def _close_windows(self, before: float) -> list[Segment]:
        old = [each for each in self._windows.values() if each.started < before]
        for window in old:
            del self._windows[window.model.digest]
        orphans = [sealing.window_segment(self._incarnation, each) for each in self._orphans]
        return [*orphans, *(self._closed(each) for each in old)]

    def _closed(self, window: Window) -> Segment:
        return sealing.window_segment(self._incarnation, sealing.checkpoint(window))

    def _commit(
        self,
        cursor: Position,
        segments: list[Segment],
        kept: list[Segment],
        dropped: Dropped,
        days: list[Day],
    ) -> None:
        sealed: list[Sealed] = []
        for each in segments:
            rows = sealing.stands_for(each)
            try:
                sealed.append(Sealed(each.key, rows, codec.encode(each)))
            except MessageTooLarge:  # it would never leave, and all behind it neither
                dropped = dropped.plus(each.key.kind, rows)
        self._buffer.seal(
            self._incarnation,
            cursor,
            sealed,
            [sealing.checkpoint(window) for window in self._windows.values()],
            kept=[Kept(e.key.first, e.key.last, e.rows, codec.encode(e)) for e in kept],
            dropped=dropped,
            captured=days,
        )
        self._cursor = cursor
        self._orphans = []
        for file in self._files():
            if file.number < cursor.number:
                file.path.unlink()

    def _learn(self, declared: list[ModelRow]) -> None:
        for row in declared:
            baseline = None
            with suppress(WireError):  # written by another release: its rows count, not windows
                baseline = sketch_codec.parse_baseline(row.baseline) if row.baseline else None
            self._models[row.index] = Model(row.family, row.digest, baseline)

    def _files(self) -> list[JournalFile]:
        found = journal.files(self._directory)
        return [file for file in found if file.incarnation == self._incarnation]

    def _blocks(self, start: Position) -> Iterator[Block]:
        for file in self._files():
            if file.number >= start.number:
                offset = start.offset if file.number == start.number else 0
                yield from journal.read(file, offset)


def dead(directory: Path, buffer: Buffer, living: str) -> list[str]:
    """Return the incarnations that left something behind: for each, `finish` a Sealer."""
    found = {file.incarnation for file in journal.files(directory)}
    found |= set(buffer.incarnations())
    return sorted(found - {living})
