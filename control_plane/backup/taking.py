"""Taking a backup of a data folder, while a control plane works on it or not.

The order makes it consistent. Keys and certificates are read before and after the database is
copied, and again until they did not change meanwhile: then those keys are the ones that the
repository in the database names. Chunks come last: the database names only such as were there
before, and a file under its digest never changes.

What the service makes anew by itself is left out: TLS certificates, the broker's files, sessions of
the page, and chunks that no release names, which are patches and uploads that were not finished.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from control_plane.backup import records
from control_plane.backup.records import Description, Record
from control_plane.backup.sealed import COST_DEFAULT, SealingWriter
from control_plane.backup.staging import Staging
from control_plane.releases.role_files import name_of
from control_plane.store import snapshots
from firmware_bundles import chunks, durable, manifest
from firmware_bundles.errors import BackupInconsistent, ConflictError, InputError
from firmware_bundles.trust import publisher, roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from control_plane.store.snapshots import Summary

_STAGING: Final = ".backup"
_READINGS_MAX: Final = 5
_PIECE_BYTES: Final = 1 << 20
ROOT_KEY: Final = f"{records.AUTHORITY}/root.key"


class Progress(Protocol):
    """Is told how far a backup or restore is."""

    def __call__(self, done_bytes: int, total_bytes: int, /) -> None:
        """Take note."""


class Request(NamedTuple):
    """What to back up: a data folder, its database (a URL), and who asks (version and time)."""

    data: Path
    database: str
    version: str
    now: float


class _Gathered(NamedTuple):
    description: Description
    small: Mapping[str, bytes]
    database: Path
    digests: list[str]


def describe(request: Request) -> Description:
    """Return what a backup would say of itself. Raises as `take`."""
    with Staging(request.data / _STAGING) as folder:
        return _gather(request, folder).description


def take(
    request: Request,
    out: Path,
    passphrase: bytes,
    *,
    progress: Progress = lambda _done, _total: None,
    cost: int = COST_DEFAULT,
) -> Description:
    """Write a backup to `out`, whole or not at all; never over a file that is there.

    Raises InputError (something is there), ConfigInvalid (no SQLite), BackupInconsistent,
    ChunkCorrupt, ConflictError, OSError.
    """
    _check_free(out)
    with Staging(request.data / _STAGING) as folder:
        gathered = _gather(request, folder)
        descriptor, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name[:64]}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                with SealingWriter(file, passphrase, cost=cost) as sink:
                    _write(sink, gathered, request.data, progress)
                file.flush()
                os.fsync(descriptor)
            _check_free(out)
            Path(name).rename(out)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    durable.sync_directory(out.parent)
    return gathered.description


def _check_free(out: Path) -> None:
    if out.exists():
        raise InputError(
            f"{out} exists already", hint="A backup never replaces a file: name another."
        )


def _gather(request: Request, folder: Path) -> _Gathered:
    source = Path(snapshots.sqlite_file(request.database))
    if not source.is_file() or not (request.data / records.AUTHORITY).is_dir():
        raise InputError(
            f"{request.data} holds no control plane", hint="Name its folder: --data DIR."
        )
    database = folder / records.DATABASE
    small = _steady(request.data, source, database)
    summary = snapshots.summarize(database)
    digests = list(_digests(summary))
    sizes = [len(data) for data in small.values()]
    sizes += [database.stat().st_size, *(_chunk_size(request.data, each) for each in digests)]
    description = Description(
        id=secrets.token_hex(8),
        created=request.now,
        version=request.version,
        schema=summary.schema,
        devices=summary.devices,
        releases=summary.releases,
        roles=_versions(summary.files),
        has_root_key=ROOT_KEY in small,
        files=len(sizes),
        bytes=sum(sizes),
    )
    return _Gathered(description, small, database, digests)


def _steady(data: Path, source: Path, database: Path) -> dict[str, bytes]:
    """Copy the database; return the small files that were the same before and after."""
    before = _small_files(data)
    for _ in range(_READINGS_MAX):
        database.unlink(missing_ok=True)
        snapshots.copy(source, database)
        after = _small_files(data)
        if after == before:
            return after
        before = after
    raise ConflictError("keys change again and again; no backup could be taken")


def _small_files(data: Path) -> dict[str, bytes]:
    found = {}
    for path in (data / records.SETTINGS, *(data / records.KEYS).glob("*"), *_authority(data)):
        name = str(path.relative_to(data))
        if records.is_small(name) and path.is_file():
            found[name] = path.read_bytes()
    return found


def _authority(data: Path) -> Iterable[Path]:
    return (data / records.AUTHORITY).glob("*")


def _digests(summary: Summary) -> Iterator[str]:
    """Return, each once, the chunks that the releases of a database need."""
    needed: dict[str, None] = {}
    for data in summary.manifests:
        needed[chunks.digest_of(data)] = None
        needed |= dict.fromkeys(manifest.parse(data).chunks())
    return iter(needed)


def _chunk_size(data: Path, digest: str) -> int:
    try:
        return (data / records.chunk_name(digest)).stat().st_size
    except FileNotFoundError as error:
        raise BackupInconsistent(
            f"chunk {digest[:12]} of a release is not in {data}",
            hint="Publish the release's bundle again, then take the backup.",
        ) from error


def _versions(files: Mapping[str, bytes]) -> dict[str, int]:
    """Return the newest version of each role of the repository."""
    found: dict[str, int] = {}
    for name, data in files.items():
        if name == roles.DIRECTOR_KEYS_PATH:
            continue
        role = name.removesuffix(".json").split(".")[-1]
        assert name_of(role, data) == name or name == roles.TIMESTAMP_FILE
        found[role] = max(found.get(role, 0), publisher.describe(data).version)
    return found


def _write(sink: SealingWriter, gathered: _Gathered, data: Path, progress: Progress) -> None:
    records.write_description(sink, gathered.description)
    done, total = 0, gathered.description.bytes
    for name, length, pieces in _files(gathered, data):
        records.write_head(sink, Record(name=name, length=length))
        for piece in pieces:
            sink.write(piece)
            done += len(piece)
            progress(done, total)


def _files(gathered: _Gathered, data: Path) -> Iterator[tuple[str, int, Iterable[bytes]]]:
    for name, body in sorted(gathered.small.items()):
        yield name, len(body), (body,)
    yield records.DATABASE, gathered.database.stat().st_size, _pieces(gathered.database)
    for digest in gathered.digests:
        body = (data / records.chunk_name(digest)).read_bytes()
        chunks.verify(digest, body)
        yield records.chunk_name(digest), len(body), (body,)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
