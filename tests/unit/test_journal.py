"""The journal gives back what was appended, up to a torn tail."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store import journal
from agent.store.journal import Journal

INCARNATION = "0123456789abcdef"
payloads = st.lists(st.binary(min_size=1, max_size=60), max_size=12)


@given(payloads, st.data())
def test_a_torn_tail_costs_nothing_before_it(written: list[bytes], data: st.DataObject) -> None:
    """Whatever happens to the end of the file, all records before it are read."""
    with TemporaryDirectory() as folder:
        ends = _write(Path(folder), written)
        (file,) = journal.files(Path(folder))
        size = file.path.stat().st_size
        cut = data.draw(st.integers(0, size))
        os.truncate(file.path, cut)
        with file.path.open("ab") as stream:
            stream.write(data.draw(st.binary(max_size=20) | st.just(bytes(64))))
        whole = sum(end <= cut for end in ends)
        read = [record.payload for record in journal.read(file)]
        assert read[:whole] == written[:whole]
        # What follows the cut could only be believed if its checksum were right.
        assert len(read) <= max(whole, len(written))


@given(payloads, st.integers(0, 11))
def test_reading_goes_on_where_it_ended(written: list[bytes], place: int) -> None:
    """The end of a record is a place to read on from."""
    with TemporaryDirectory() as folder:
        ends = [0, *_write(Path(folder), written)]
        start = min(place, len(written))
        (file,) = journal.files(Path(folder))
        read = list(journal.read(file, ends[start]))
        assert [record.payload for record in read] == written[start:]
        assert [record.end.offset for record in read] == ends[start + 1 :]


def test_a_flipped_byte_ends_the_reading(tmp_path: Path) -> None:
    """A record whose checksum is wrong is not believed, nor is what follows."""
    _write(tmp_path, [b"one", b"two", b"three"])
    (file,) = journal.files(tmp_path)
    data = bytearray(file.path.read_bytes())
    data[8 + 3 + 8] ^= 1
    file.path.write_bytes(data)
    assert [record.payload for record in journal.read(file)] == [b"one"]


def test_a_new_file_follows_the_complete_one(tmp_path: Path) -> None:
    """After rotation records go to the next number, and both files are read in order."""
    written = Journal(tmp_path, INCARNATION)
    written.append(b"old")
    written.rotate()
    written.append(b"new")
    written.close()
    files = journal.files(tmp_path)
    assert [file.number for file in files] == [1, 2]
    assert [record.payload for file in files for record in journal.read(file)] == [b"old", b"new"]


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """After a failed write the journal is as before, and goes on."""
    written = Journal(tmp_path, INCARNATION)
    written.append(b"one")
    (file,) = journal.files(tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    good, written._descriptor = written._descriptor, full
    with pytest.raises(OSError, match=r"."):
        written.append(b"two")
    written._descriptor = good
    os.close(full)
    written.append(b"three")
    written.close()
    assert [record.payload for record in journal.read(file)] == [b"one", b"three"]


def _write(folder: Path, written: list[bytes]) -> list[int]:
    """Append all and return where each record ends."""
    target = Journal(folder, INCARNATION)
    ends = []
    for payload in written:
        target.append(payload)
        ends.append(target.bytes)
    target.close()
    return ends
