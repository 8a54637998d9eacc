"""The table of parsers: what somebody hands over as a backup of a control plane.

Who holds the passphrase may be hostile too: the records are also damaged inside the sealed file.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import msgspec

from control_plane.backup import records, restoring
from control_plane.backup.sealed import COST_MIN, SealedReader, SealingWriter
from firmware_bundles.errors import BackupUnreadable
from support.hostile.inputs import Form
from support.hostile.parser import Parser, in_folder

if TYPE_CHECKING:
    from pathlib import Path

_PASSPHRASE: Final = b"correct horse"
_DESCRIPTION: Final = records.Description(
    id="b-1",
    created=1_800_000_000.0,
    version="0.1.0",
    schema="0006",
    devices=1,
    releases=1,
    roles={"root": 1},
    has_root_key=True,
    files=2,
    bytes=7,
)


class _Opened:
    """The bytes of a sealed file, unsealed."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._length = len(data)

    @property
    def is_at_end(self) -> bool:
        return self._file.tell() == self._length

    def read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise BackupUnreadable("the backup ends in the middle of a record")
        return data


def _written() -> bytes:
    sink = io.BytesIO()
    records.write_description(sink, _DESCRIPTION)
    for name, body in {records.DATABASE: b"SQLi", records.SETTINGS: b"a=1"}.items():
        records.write_head(sink, records.Record(name=name, length=len(body)))
        sink.write(body)
    return sink.getvalue()


def _sealed() -> bytes:
    file = io.BytesIO()
    with SealingWriter(file, _PASSPHRASE, cost=COST_MIN) as sealing:
        sealing.write(_written())
    return file.getvalue()


def _read(source: records.Source) -> object:
    description = records.read_description(source)
    return description, [
        (record, sum(map(len, pieces))) for record, pieces in records.read_records(source)
    ]


def _marker(folder: Path, data: bytes) -> object:
    (folder / restoring.MARKER).write_bytes(data)
    return restoring._same(folder, _DESCRIPTION)


PARSERS: Final = (
    Parser(
        name="sealed backup",
        parse=lambda data: _read(SealedReader(io.BytesIO(data), _PASSPHRASE)),
        make_seeds=lambda: [_sealed()],
        cost=20,
    ),
    Parser(
        name="records of a backup",
        parse=lambda data: _read(_Opened(data)),
        make_seeds=lambda: [_written()],
    ),
    Parser(
        name="mark of a restore",
        parse=in_folder(_marker),
        make_seeds=lambda: [
            msgspec.json.encode(
                restoring._Marker(backup="b-1", created=1.0, restored=2.0, paused=[], going_back=[])
            )
        ],
        form=Form.JSON,
        cost=2,
    ),
)
