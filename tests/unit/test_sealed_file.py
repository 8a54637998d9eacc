"""The encrypted file of a backup: what comes out is what went in, or nothing comes out."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control_plane.backup import records, sealed
from control_plane.backup.records import Description, Record
from control_plane.backup.sealed import COST_MIN, FRAME_BYTES, SealedReader, SealingWriter
from firmware_bundles.errors import BackupUnreadable

SECRET = b"correct horse"
HEADER_BYTES = len(sealed.MAGIC) + 18
TAG_BYTES = 16


@pytest.fixture(autouse=True, scope="module")
def _derived_once() -> Iterator[None]:
    """Derive each key once: that it takes long is its purpose, and not what is tested here."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sealed, "_cipher", functools.cache(sealed._cipher))
        yield


def seal(pieces: list[bytes]) -> bytes:
    """Return the sealed file of these pieces."""
    file = io.BytesIO()
    with SealingWriter(file, SECRET, cost=COST_MIN) as writer:
        for piece in pieces:
            writer.write(piece)
    return file.getvalue()


def unseal(data: bytes, passphrase: bytes = SECRET) -> bytes:
    """Return all that a file holds."""
    reader = SealedReader(io.BytesIO(data), passphrase)
    found = bytearray()
    while not reader.is_at_end:
        found += reader.read(1)
        found += reader.read(len(reader._open))
    return bytes(found)


# Key derivation is slow on purpose: one file of three frames and a bit serves all cases.
PLAIN = bytes(range(251)) * (3 * FRAME_BYTES // 251 + 5)
FILE = seal([PLAIN])


@pytest.mark.parametrize("length", [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1])
def test_what_was_written_is_read(length: int) -> None:
    """Whatever its length is beside that of a frame, and however it was cut."""
    data = PLAIN[:length]
    assert unseal(seal([data[:7], b"", data[7:]])) == data


def test_two_backups_of_the_same_bytes_differ() -> None:
    """Each has a key of its own, so that nothing is learned from comparing them."""
    assert seal([b"same"])[-20:] != seal([b"same"])[-20:]


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed(place: int, change: int) -> None:
    """Anywhere: in header, frames or tags."""
    changed = bytearray(FILE)
    changed[place] ^= change
    cost = len(sealed.MAGIC) + 1
    if place == cost:
        changed[place] = COST_MIN + 1
    with pytest.raises(BackupUnreadable):
        unseal(bytes(changed))


@given(st.integers(0, len(FILE) - 1))
@example(HEADER_BYTES)
@example(HEADER_BYTES + FRAME_BYTES + TAG_BYTES)
@example(HEADER_BYTES + 3 * (FRAME_BYTES + TAG_BYTES))
def test_a_file_that_was_cut_off_is_noticed(length: int) -> None:
    """Between frames too: only the last one says that it is the last."""
    with pytest.raises(BackupUnreadable):
        unseal(FILE[:length])


def test_frames_stay_in_their_order_and_number() -> None:
    """Exchanged, repeated, left out or added: refused."""
    size = FRAME_BYTES + TAG_BYTES
    head, body = FILE[:HEADER_BYTES], FILE[HEADER_BYTES:]
    frames = [body[start : start + size] for start in range(0, len(body), size)]
    one, two, *rest = frames
    for wrong in ([two, one, *rest], [one, one, *rest], [one, *rest], [*frames, frames[-1]]):
        with pytest.raises(BackupUnreadable):
            unseal(head + b"".join(wrong))
    with pytest.raises(BackupUnreadable):
        unseal(FILE + b"x")


def test_another_passphrase_opens_nothing() -> None:
    """And the message says that this may be why."""
    with pytest.raises(BackupUnreadable, match="passphrase"):
        unseal(FILE, b"wrong horse")


@pytest.mark.parametrize("cost", [0, COST_MIN - 1, sealed.COST_MAX + 1, 255])
def test_a_file_cannot_ask_for_all_memory(cost: int) -> None:
    """The cost of the key stands in the file, so it has a limit before it is paid."""
    asked = sealed.MAGIC + bytes([sealed.VERSION, cost]) + FILE[len(sealed.MAGIC) + 2 :]
    with pytest.raises(BackupUnreadable, match="out of range"):
        unseal(asked)


class Plain:
    """Gives bytes as the reader of a sealed file does."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._length = len(data)

    @property
    def is_at_end(self) -> bool:
        """Whether all was read."""
        return self._data.tell() == self._length

    def read(self, length: int) -> bytes:
        """Return exactly so many bytes."""
        found = self._data.read(length)
        if len(found) != length:
            raise BackupUnreadable("too short")
        return found


def read_all(data: bytes) -> dict[str, bytes]:
    """Return description and files of a backup that is not encrypted."""
    source = Plain(data)
    records.read_description(source)
    return {head.name: b"".join(pieces) for head, pieces in records.read_records(source)}


def begin() -> io.BytesIO:
    """Return a backup with nothing but its description."""
    sink = io.BytesIO()
    description = Description(
        id="0", created=0.0, version="0", schema="0", devices=0, releases=0, roles={},
        has_root_key=False, files=0, bytes=0,
    )  # fmt: skip
    records.write_description(sink, description)
    return sink


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "keys/../ca/root.key",
        "chunks/x",
        "keys/a.pem/b",
        "lock",
        "",
        "ca/x",
    ],
)
def test_a_name_that_no_backup_has_is_refused(name: str) -> None:
    """Names come from a closed list: nothing is written elsewhere."""
    sink = begin()
    records.write_head(sink, Record(name=name, length=0))
    with pytest.raises(BackupUnreadable):
        read_all(sink.getvalue())


@pytest.mark.parametrize(("name", "length"), [("settings.toml", 1 << 40), ("shoal.db", -1)])
def test_a_length_that_no_file_has_is_refused(name: str, length: int) -> None:
    """Before memory or disk is taken for it."""
    sink = begin()
    records.write_head(sink, Record(name=name, length=length))
    with pytest.raises(BackupUnreadable):
        read_all(sink.getvalue())


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    """Even bytes that somebody with the passphrase sealed."""
    for start in (b"", begin().getvalue()):
        try:
            read_all(start + data)
        except BackupUnreadable:
            continue
        assert not data
