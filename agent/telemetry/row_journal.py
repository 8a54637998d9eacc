"""Rows on their way into the journal: gathered, written by one call, counted until they are sealed.

What rows mean is `rows`' affair; when they are synced and sealed, `recorder`'s. A row that cannot
be written is counted as dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.store.journal import RECORD_BYTES_MAX, Journal
from agent.telemetry.recording import Recording
from agent.telemetry.rows import encode_model, is_model


class RowJournal:
    """The journal of this incarnation. `on_change` hears of what must be synced or told.

    `unsealed_rows`, of `unsealed_bytes`, are in no segment yet, since `since` (monotonic).
    """

    def __init__(self, journal: Journal, bytes_max: int, on_change: Callable[[], None]) -> None:
        self.unsealed_rows = 0
        self.unsealed_bytes = 0
        self.since = 0.0
        self.dropped = 0
        self.is_synced = True
        self._journal = journal
        self._bytes_max = bytes_max
        self._on_change = on_change
        self._records: list[bytes] = []  # not written yet
        self._declared: set[Recording] = set()  # models, in the present file

    @property
    def file_bytes(self) -> int:
        """The size of the present file."""
        return self._journal.bytes

    def add(self, recording: Recording, record: bytes) -> None:
        """Let a row wait for `write`; the first of its model in a file brings what the model is."""
        size = len(record)
        if size > RECORD_BYTES_MAX or self.unsealed_bytes + size > self._bytes_max:
            self._drop(1)
            return
        if recording not in self._declared:
            self._records.append(encode_model(recording.row))
            self._declared.add(recording)
        self._records.append(record)
        if not self.unsealed_rows:
            self.since = time.monotonic()
        self.unsealed_rows += 1
        self.unsealed_bytes += size

    def write(self) -> None:
        """Write all rows that wait; from now on the death of this process does not lose them."""
        records = self._records
        if not records:
            return
        self._records = []
        try:
            kept = self._journal.append(*records)
        except OSError:
            kept = 0
        if kept < len(records):
            self._lose(records[kept:])
        if kept and self.is_synced:
            self.is_synced = False
            self._on_change()

    def sealed(self, rows: int, size: int) -> None:
        """Count rows out: segments hold them."""
        self.unsealed_rows -= rows
        self.unsealed_bytes -= size
        self.since = time.monotonic()

    def rotate(self) -> None:
        """Go on in a new file. Raises OSError."""
        self.write()
        self._journal.rotate()
        self._declared.clear()

    def sync(self) -> None:
        """Return when all that was written before survives a power cut; may run in a thread."""
        self._journal.sync()

    def close(self) -> None:
        """Write, sync and close for good."""
        self.write()
        self._journal.close()

    def _lose(self, records: list[bytes]) -> None:
        lost = [each for each in records if not is_model(each)]
        if len(lost) < len(records):
            self._declared.clear()
        self.unsealed_rows -= len(lost)
        self.unsealed_bytes -= sum(map(len, lost))
        self._drop(len(lost))

    def _drop(self, rows: int) -> None:
        self.dropped += rows
        self._on_change()
