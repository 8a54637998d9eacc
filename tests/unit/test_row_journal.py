"""Rows are written together, before what they record leaves; what cannot be written is counted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.store import journal
from agent.store.journal import Journal
from agent.telemetry import rows
from agent.telemetry.recording import Recording
from agent.telemetry.row_journal import RowJournal
from agent.telemetry.rows import LabelRow, ModelRow

INCARNATION = "0" * 16
MODEL = ModelRow(index=0, family="digits", digest="d")


class _Life:
    """A row journal on disk, and what it told."""

    def __init__(self, folder: Path, bytes_max: int = 10_000) -> None:
        self.folder = folder
        self.told = 0
        self.rows = RowJournal(Journal(folder, INCARNATION), bytes_max, self._tell)
        self.recording = Recording(MODEL, None)

    def _tell(self) -> None:
        self.told += 1

    def add(self, *numbers: int) -> None:
        """Let rows wait, known by their numbers."""
        for number in numbers:
            self.rows.add(self.recording, _row(number))

    def stored(self) -> list[str]:
        """What each file of the journal holds: m for the model, else the row's number."""
        found = []
        for file in journal.files(self.folder):
            data = file.path.read_bytes()
            records, at = [], 0
            while at < len(data):
                size = int.from_bytes(data[at : at + 4], "little")
                row = rows.parse(data[at + 8 : at + 8 + size])
                records.append("m" if isinstance(row, ModelRow) else str(_number(row)))
                at += 8 + size
            found.append(" ".join(records))
        return found


def _row(number: int) -> bytes:
    return rows.encode_label(LabelRow(0, number, 0, INCARNATION, 1, 1, 1))


def _number(row: rows.Row) -> int:
    assert isinstance(row, LabelRow)
    return row.sequence


def test_rows_wait_for_one_write_and_are_counted_from_the_first(tmp_path: Path) -> None:
    """Nothing is on disk before `write`, everything in order after it, the model first."""
    life = _Life(tmp_path)
    life.add(1, 2, 3)
    assert life.stored() == [""]
    assert (life.rows.unsealed_rows, life.rows.unsealed_bytes) == (3, 3 * len(_row(1)))
    life.rows.write()
    assert life.stored() == ["m 1 2 3"]
    assert (life.rows.is_synced, life.told) == (False, 1)
    life.rows.sealed(2, 2 * len(_row(1)))
    assert (life.rows.unsealed_rows, life.rows.unsealed_bytes) == (1, len(_row(1)))


def test_a_new_file_begins_with_the_model_and_leaves_no_row_behind(tmp_path: Path) -> None:
    """Rows that wait when the file is changed belong to the old one, with their model."""
    life = _Life(tmp_path)
    life.add(1)
    life.rows.rotate()
    life.add(2)
    life.rows.write()
    assert life.stored() == ["m 1", "m 2"]


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_write_that_fails_drops_its_rows_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """What is not whole is counted, the file stays good, and later rows have their model."""
    life = _Life(tmp_path)
    life.add(1)
    life.rows.write()
    life.rows.rotate()
    real = os.write
    row = journal.FRAME_BYTES + len(_row(2))
    model = journal.FRAME_BYTES + len(rows.encode_model(MODEL))
    room = [0, model, model + row, model + 2 * row][kept] + 5
    monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:room]))
    life.add(2, 3, 4)
    life.rows.write()
    stays = max(0, kept - 1)
    assert (life.rows.dropped, life.rows.unsealed_rows) == (3 - stays, 1 + stays)
    assert life.rows.unsealed_bytes == (1 + stays) * len(_row(1))
    monkeypatch.setattr(os, "write", real)
    life.add(5)
    life.rows.write()
    assert life.stored() == ["m 1", ["m 5", "m 5", "m 2 5", "m 2 3 5"][kept]]


def test_what_the_quota_does_not_hold_is_counted(tmp_path: Path) -> None:
    """Rows that wait count as much as rows that are written."""
    life = _Life(tmp_path, bytes_max=2 * len(_row(1)))
    life.add(1, 2, 3)
    assert life.rows.dropped == 1
    life.rows.write()
    life.add(4)
    assert (life.rows.dropped, life.stored()) == (2, ["m 1 2"])


def test_a_row_that_no_reader_would_believe_is_not_written(tmp_path: Path) -> None:
    """Behind it nothing would be read any more; it is counted instead."""
    life = _Life(tmp_path, bytes_max=4 * journal.RECORD_BYTES_MAX)
    life.rows.add(life.recording, bytes(journal.RECORD_BYTES_MAX + 1))
    life.add(1)
    life.rows.write()
    assert (life.rows.dropped, life.stored()) == (1, ["m 1"])
