"""The journal gives back what was appended, up to a torn tail."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.store import journal
from agent.store.journal import Journal, JournalFile, Position

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
        read = _payloads(file)
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
        blocks = list(journal.read(file, ends[start]))
        assert [each for block in blocks for each in block.payloads()] == written[start:]
        found = [block.offset + end for block in blocks for end in block.ends]
        assert found == ends[start + 1 :]


@given(payloads, st.integers(1, 100), st.integers(1, 5))
def test_parts_are_all_records_a_few_at_a_time(
    written: list[bytes], block_bytes: int, most: int
) -> None:
    """However little is read at once, and from however many files: nothing is lost or doubled."""
    with TemporaryDirectory() as folder, patch.object(journal, "_BLOCK_BYTES", block_bytes):
        ends = _write(Path(folder), written)
        (file,) = journal.files(Path(folder))
        twice = (block for number in (1, 2) for block in journal.read(file._replace(number=number)))
        parts = list(journal.parts(twice, most))
    told = [[each for block in part for each in block.payloads()] for part in parts]
    assert [each for part in told for each in part] == written * 2
    assert [len(part) for part in told[:-1]] == [most] * (len(told) - 1)
    assert len(told[-1]) < most
    places = [Position(number, end) for number in (1, 2) for end in ends]
    assert [part[-1].end for part in parts if part] == [
        places[min(first + most, len(places)) - 1] for first in range(0, len(places), most)
    ]


@given(payloads, st.integers(1, 3), st.integers(0, 800))
def test_what_was_sealed_before_is_told_apart(
    written: list[bytes], number: int, offset: int
) -> None:
    """Of a block, the records up to a cursor are those that end there or before."""
    with TemporaryDirectory() as folder:
        _write(Path(folder), written)
        (file,) = journal.files(Path(folder))
        for block in journal.read(file._replace(number=2)):
            sealed = block.until(Position(number, offset))
            found = list(sealed.payloads()) if sealed else []
            ends = [Position(2, end) for end in block.ends]
            assert len(found) == sum(end <= (number, offset) for end in ends)
            assert found == written[: len(found)]


def test_a_large_record_is_read_whole(tmp_path: Path) -> None:
    """A record may be larger than what is read at once."""
    written = [bytes([number]) * size for number, size in enumerate((5, 300_000, 7), start=1)]
    _write(tmp_path, written)
    (file,) = journal.files(tmp_path)
    assert _payloads(file) == written


def test_a_flipped_byte_ends_the_reading(tmp_path: Path) -> None:
    """A record whose checksum is wrong is not believed, nor is what follows."""
    _write(tmp_path, [b"one", b"two", b"three"])
    (file,) = journal.files(tmp_path)
    data = bytearray(file.path.read_bytes())
    data[8 + 3 + 8] ^= 1
    file.path.write_bytes(data)
    assert _payloads(file) == [b"one"]


def test_a_new_file_follows_the_complete_one(tmp_path: Path) -> None:
    """After rotation records go to the next number, and both files are read in order."""
    written = Journal(tmp_path, INCARNATION)
    written.append(b"old")
    written.rotate()
    written.append(b"new")
    written.close()
    files = journal.files(tmp_path)
    assert [file.number for file in files] == [1, 2]
    assert [each for file in files for each in _payloads(file)] == [b"old", b"new"]


@given(payloads.filter(len), st.data())
def test_what_was_written_in_part_stays_as_far_as_it_is_whole(
    written: list[bytes], data: st.DataObject
) -> None:
    """Who reads meanwhile may have seen the whole records: they are not taken back."""
    size = sum(journal.FRAME_BYTES + len(each) for each in written)
    room = data.draw(st.integers(1, size - 1))
    with TemporaryDirectory() as folder:
        target = Journal(Path(folder), INCARNATION)
        target.append(b"before")
        (file,) = journal.files(Path(folder))
        write = os.write
        seen: list[bytes] = []

        def write_in_part(descriptor: int, block: bytes) -> int:
            count = write(descriptor, block[:room])
            seen.extend(_payloads(file))
            return count

        with patch.object(os, "write", write_in_part):
            try:
                kept = target.append(*written)
            except OSError:
                kept = 0
        assert seen == [b"before", *written[:kept]] == _payloads(file)
        target.append(b"after")
        assert _payloads(file) == [*seen, b"after"]
        target.close()


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
    assert _payloads(file) == [b"one", b"three"]


def _payloads(file: JournalFile) -> list[bytes]:
    return [payload for block in journal.read(file) for payload in block.payloads()]


def _write(folder: Path, written: list[bytes]) -> list[int]:
    """Append all and return where each record ends."""
    target = Journal(folder, INCARNATION)
    ends = []
    for payload in written:
        target.append(payload)
        ends.append(target.bytes)
    target.close()
    return ends
