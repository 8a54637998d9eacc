"""Putting a backup in place of a control plane that was lost: all of it, or nothing.

Everything is written to a folder beside the target and verified there; one rename places it. What
the lost control plane did after the backup is not known here: that versions and generations never
go back is `releases.role_files.next_version` and `store.rollout_orders`, for both are never below
the time. What a person has to do again is returned.
"""

from __future__ import annotations

import os
import time
from contextlib import closing, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import msgspec

from control_plane import config, data_folder
from control_plane.audit import SERVICE, Statement
from control_plane.backup import records, taking
from control_plane.backup.sealed import SealedReader
from control_plane.backup.staging import Staging
from control_plane.backup.verification import check_present, verify
from control_plane.rollouts import verbs
from control_plane.rollouts.model import RolloutState
from control_plane.store import snapshots
from control_plane.store.audit import AuditLog
from control_plane.store.database import Database
from control_plane.store.enrolment import Invitations
from control_plane.store.rollouts import Rollouts
from firmware_bundles import durable
from firmware_bundles.errors import BackupUnreadable, ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_plane.backup.records import Description, Record

MARKER: Final = "restored.json"
_PRIVATE_MODE: Final = 0o600


class Restored(NamedTuple):
    """What was restored; `paused` rollouts wait for a person, `going_back` ones go on.

    `set_aside` is where the former folder is now; `is_repeated` that nothing had to be done.
    """

    description: Description
    paused: list[str]
    going_back: list[str]
    set_aside: Path | None = None
    is_repeated: bool = False


class _Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Left in a restored folder."""

    backup: str
    created: float
    restored: float
    paused: list[str]
    going_back: list[str]


def inspect(file: Path, passphrase: bytes) -> Description:
    """Return what a backup says of itself, after every byte of it was proven.

    Raises BackupUnreadable, OSError.
    """
    with file.open("rb") as opened:
        source = SealedReader(opened, passphrase)
        description = records.read_description(source)
        count = 0
        for _, pieces in records.read_records(source):
            count += 1
            for _piece in pieces:
                pass
    _check_count(description, count)
    return description


def restore(
    file: Path,
    data: Path,
    passphrase: bytes,
    *,
    now: float,
    may_replace: bool = False,
    is_trial: bool = False,
    progress: taking.Progress = lambda _done, _total: None,
) -> Restored:
    """Make `data` the control plane that was backed up in `file`. Repeatable.

    A folder that is not empty is refused, or with `may_replace` set aside under another name.
    Raises ConflictError (not empty), BackupUnreadable, BackupInconsistent, ConfigInvalid (in use,
    or made by a newer shoal), OSError; then nothing has changed.
    """
    staging = data.parent / f".{data.name}.restoring"
    with file.open("rb") as opened:
        source = SealedReader(opened, passphrase)
        description = records.read_description(source)
        if (before := _same(data, description)) is not None:
            return Restored(description, before.paused, before.going_back, is_repeated=True)
        is_empty = not data.exists() or not any(data.iterdir())
        if not (is_empty or may_replace or is_trial):
            raise ConflictError(
                f"{data} is not empty", hint="--replace sets what is there aside; it is kept."
            )
        with Staging(staging) as folder:
            _unpack(source, description, folder, progress)
            restored = _settle(folder, description, now)
            if is_trial:
                return restored
            os.sync()
            with nullcontext() if is_empty else data_folder.Hold(data):
                aside = None if is_empty else _set_aside(data, now)
                folder.rename(data)
    durable.sync_directory(data.parent)
    return restored._replace(set_aside=aside)


def _same(data: Path, description: Description) -> _Marker | None:
    """Return the marker of this very backup, if it lies in `data` and was not started since."""
    if (data / data_folder.LOCK).exists():
        return None
    try:
        marker = msgspec.json.decode((data / MARKER).read_bytes(), type=_Marker)
    except (OSError, msgspec.DecodeError, ValueError, RecursionError):
        return None
    return marker if marker.backup == description.id else None


def _unpack(
    source: SealedReader, description: Description, folder: Path, progress: taking.Progress
) -> None:
    for name in (records.KEYS, records.AUTHORITY, records.CHUNKS):
        (folder / name).mkdir(mode=0o700)
    done = count = 0
    for record, pieces in records.read_records(source):
        count += 1
        with _create(folder, record) as file:
            for piece in pieces:
                file.write(piece)
                done += len(piece)
                progress(done, description.bytes)
    _check_count(description, count)


def _create(folder: Path, record: Record) -> IO[bytes]:
    try:
        descriptor = os.open(
            folder / record.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_MODE
        )
    except FileExistsError as error:
        raise BackupUnreadable(f"the backup holds {record.name} twice") from error
    return os.fdopen(descriptor, "wb")


def _check_count(description: Description, count: int) -> None:
    if count != description.files:
        raise BackupUnreadable(f"the backup holds {count} files; it names {description.files}")


def _settle(folder: Path, description: Description, now: float) -> Restored:
    """Verify all of it, and hold what must not go on by itself."""
    check_present(folder)
    snapshots.check(folder / records.DATABASE)
    snapshots.forget_derived(folder / records.DATABASE)
    with closing(Database.open(f"sqlite:///{folder / records.DATABASE}")) as database:
        verify(folder, database, description.created)
        # A token that was used up since would let somebody in once more.
        Invitations(database).delete_all()
        AuditLog(database).note(_told(description, now))
        paused, going_back = _hold(Rollouts(database), description, now)
    _keep_settings(folder)
    marker = _Marker(
        backup=description.id,
        created=description.created,
        restored=now,
        paused=paused,
        going_back=going_back,
    )
    durable.write(folder / MARKER, msgspec.json.encode(marker), mode=_PRIVATE_MODE)
    return Restored(description, paused, going_back)


def _told(description: Description, now: float) -> Statement:
    details = {"taken": description.created}
    return Statement(now, SERVICE, "backup.restored", f"backup/{description.id}", details)


_GOING_BACK: Final = (RolloutState.ROLLING_BACK, RolloutState.ROLLING_BACK_PHASE)


def _hold(rollouts: Rollouts, description: Description, now: float) -> tuple[list[str], list[str]]:
    """Pause what runs: it may have ended since, and devices may be further than it knows."""
    taken = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(description.created))
    paused, going_back = [], []
    for rollout in rollouts.open():
        if rollout.standing.state is RolloutState.RUNNING:
            plan = verbs.pause(
                rollout, rollouts.view(rollout), now, f"the restore of the backup of {taken}"
            )
            rollouts.save(rollout, plan, now)
            paused.append(rollout.id)
        elif rollout.standing.state in _GOING_BACK:
            going_back.append(rollout.id)
    return paused, going_back


def _keep_settings(folder: Path) -> None:
    """Let the settings name the database that was restored, wherever it was before."""
    path = folder / records.SETTINGS
    if path.exists():
        former = config.load({"data": folder, "database": ""}, {}, path)
        durable.write(path, config.text(former).encode(), mode=_PRIVATE_MODE)


def _set_aside(data: Path, now: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    aside = data.with_name(f"{data.name}.replaced-{stamp}")
    if aside.exists():
        raise ConflictError(f"{aside} exists already", hint="Try again in a second.")
    data.rename(aside)
    return aside


def settings_of(data: Path) -> Iterator[str]:
    """Return the words with which `shoal serve` runs as before."""
    yield from ("shoal", "serve", "--data", str(data))
    if (data / records.SETTINGS).exists():
        yield from ("--config", str(data / records.SETTINGS))
