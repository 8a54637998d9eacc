"""A TUF client for any repository, over any way to fetch, with its trusted metadata in one folder.

The folder holds root.json, timestamp.json, snapshot.json, targets.json and ROLE.json exactly as
they were received, and `shoal-floors`: the versions below which nothing is taken any more.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import quote

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, Root
from tuf.ngclient import FetcherInterface, UpdaterConfig

from firmware_bundles import durable, limits
from firmware_bundles.errors import InputError, NotFound, TransferError, TrustError
from firmware_bundles.trust import floors
from firmware_bundles.trust.floors import Mark
from firmware_bundles.trust.refusals import translated
from firmware_bundles.trust.updater import GuardedUpdater

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tuf.api.metadata import TargetFile

_ROOT_FILE: Final = "root.json"
_MEMORY_FILE: Final = "shoal-floors"
_NAME_CHARS_MAX: Final = 200
_CONFIG: Final = UpdaterConfig(root_max_length=limits.ROOT_BYTES_MAX)


class Fetch(Protocol):
    """Fetches one address, piece by piece.

    Raises NotFound where the server says that there is no such file, else TransferError.
    """

    def __call__(self, url: str) -> Iterable[bytes]:
        """Return the body of `url`, unchanged."""


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What `shoal-floors` holds: the digest of the first root, and the floors since then."""

    anchor: str
    floors: dict[str, Mark] = {}


def init(metadata_dir: Path, root: bytes) -> int:
    """Trust `root` from now on, without any request; return its version.

    The same root again keeps what was learned since, another one begins anew. Raises TrustError
    for what is no root signed by itself, OSError.
    """
    with translated("the root file"):
        metadata = Metadata[Root].from_bytes(root)
        if not isinstance(metadata.signed, Root):
            raise TrustError(f"a root was expected, the file holds {metadata.signed.type!r:.40}")
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    durable.make_directory(metadata_dir)
    anchor = hashlib.sha256(root).hexdigest()
    if not _is_anchored(metadata_dir, anchor):
        for path in metadata_dir.glob("*.json"):
            path.unlink()
        durable.write(metadata_dir / _ROOT_FILE, root)
        _remember(metadata_dir, _Memory(anchor=anchor))
    elif not _is_usable(metadata_dir / _ROOT_FILE):
        durable.write(metadata_dir / _ROOT_FILE, root)
    return metadata.signed.version


class Client:
    """One run over one repository: a single refresh, then any number of downloads."""

    def __init__(self, metadata_dir: Path, metadata_url: str, fetch: Fetch) -> None:
        """Read the trusted folder. Raises InputError, TrustError."""
        self._directory = metadata_dir
        self._memory = _read_memory(metadata_dir)
        with translated(f"the trusted root in {metadata_dir}"):
            self._updater = _FolderUpdater(
                metadata_dir,
                metadata_url,
                fetcher=_Fetcher(fetch),
                config=_CONFIG,
                bootstrap=_read_root(metadata_dir),
                known=self._memory.floors,
                note=self._note,
            )

    def refresh(self) -> dict[str, int]:
        """Bring the top-level roles up to date (TUF specification 1.0, 5.3 to 5.6).

        Returns their versions. Raises the classes of TrustError, TransferError, OSError.
        """
        with translated("the repository"):
            self._updater.refresh()
        return self._settle()

    def download(self, target: str, folder: Path, base_url: str) -> Path:
        """Return a verified copy of `target` in `folder`, fetched only if it is not there yet.

        Raises NotFound for a target that nobody who may lists it, TrustError, TransferError,
        InputError, OSError.
        """
        path = folder / file_name(target)
        what = f"target {target!r:.140}"
        with translated(what):
            info = self._updater.get_targetinfo(target)
            self._settle()
            if info is None:
                raise NotFound(f"{what} is listed nowhere in the repository")
            if self._updater.find_cached_target(info, str(path)) is None:
                self._fetch_target(info, path, base_url)
        return path

    def _fetch_target(self, info: TargetFile, path: Path, base_url: str) -> None:
        durable.make_directory(path.parent)
        beside = path.with_name(f".{path.name}.part")
        try:
            self._updater.download_target(info, str(beside), base_url)
            durable.write(path, beside.read_bytes())
        finally:
            beside.unlink(missing_ok=True)

    def _settle(self) -> dict[str, int]:
        """Hold every role of this run against its floor, also those that the cache had."""
        found = self._updater.marks()
        self._note(found)
        return {role: mark.version for role, mark in found.items()}

    def _note(self, found: Mapping[str, Mark]) -> None:
        present = self._memory.floors
        after = floors.raised(present, found)
        if after != present:
            self._memory = _Memory(anchor=self._memory.anchor, floors=after)
            _remember(self._directory, self._memory)


def file_name(target: str) -> str:
    """Return the name under which a target is kept in one flat folder.

    Escaped as in a URL, so that no name leaves the folder; a long one ends in its digest instead.
    Raises InputError for an empty name.
    """
    if not target:
        raise InputError("a target's name is empty")
    name = quote(target, safe="")
    if name in {".", ".."}:
        return name.replace(".", "%2E")
    if len(name) > _NAME_CHARS_MAX:
        return f"{name[: _NAME_CHARS_MAX - 65]}-{hashlib.sha256(target.encode()).hexdigest()}"
    return name


class _FolderUpdater(GuardedUpdater):
    """Keeps the newest root as root.json only, which is where the next run begins."""

    def _persist_root(self, version: int, data: bytes) -> None:  # noqa: ARG002 - python-tuf's
        self._count_root_keys()
        path = Path(self._dir, _ROOT_FILE)
        if not path.exists() or path.read_bytes() != data:
            self._persist_file(str(path), data)

    def _update_root_symlink(self) -> None:
        """Do nothing: there is no folder of former roots to link to."""


class _Fetcher(FetcherInterface):
    """Tells python-tuf of failures in its own classes, also of those halfway through a body."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_url = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield from self._fetch_url(url)
        except NotFound as error:
            raise tuf_errors.DownloadHTTPError(error.message, 404) from error
        except TransferError as error:
            raise tuf_errors.DownloadError(error.message) from error


def _read_root(directory: Path) -> bytes:
    try:
        return (directory / _ROOT_FILE).read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"{directory} holds no {_ROOT_FILE}; it has to be made by 'init'"
        ) from error


def _read_memory(directory: Path) -> _Memory:
    """Return the floors. Without them old metadata could come back, so they must be there."""
    path = directory / _MEMORY_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Memory)
    except FileNotFoundError as error:
        raise InputError(f"{directory} holds no {_MEMORY_FILE}; 'init' makes it") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TrustError(f"the floors in {path} are damaged; 'init' begins anew") from error


def _is_anchored(directory: Path, anchor: str) -> bool:
    try:
        return _read_memory(directory).anchor == anchor
    except (InputError, TrustError):
        return False


def _is_usable(path: Path) -> bool:
    try:
        with translated("the root"):
            return isinstance(Metadata[Root].from_bytes(path.read_bytes()).signed, Root)
    except (OSError, TrustError):
        return False


def _remember(directory: Path, memory: _Memory) -> None:
    durable.write(directory / _MEMORY_FILE, msgspec.json.format(msgspec.json.encode(memory)))
