"""Backup and restore of a data folder: what is in it, what is refused, what is held back."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from control_plane import data_folder
from control_plane.backup import records, restoring, taking
from control_plane.backup.sealed import COST_MIN, SealedReader, SealingWriter
from control_plane.backup.staging import Staging
from control_plane.cli import main as command
from control_plane.fleet.authority import Authority
from control_plane.releases.repository import Bootstrap
from control_plane.store.audit import AuditLog
from control_plane.store.database import Database
from control_plane.store.enrolment import InvitationRow, Invitations
from firmware_bundles import chunks
from firmware_bundles.errors import (
    BackupInconsistent,
    BackupUnreadable,
    ChunkCorrupt,
    ConfigInvalid,
    ConflictError,
    InputError,
    ShoalError,
)
from firmware_bundles.trust import key_folder, publisher, verifier
from support.deployments import FAMILY, V1, V2, V3, Release
from support.release_service import ReleaseService

SECRET = b"correct horse"
PASSPHRASE = b"of the owners"


class Plane:
    """A control plane's data folder with a root of trust and one release."""

    def __init__(self, folder: Path) -> None:
        self.now = time.time()
        self.data = folder / "data"
        self.data.mkdir()
        Authority.load_or_create(self.data / "ca", lambda: self.now)
        self.service = ReleaseService(self.data, self.now)
        beginning = key_folder.create(
            folder / "owners",
            families=[FAMILY],
            online=self.service.online_keys.public(),
            passphrase=PASSPHRASE,
            now=self.now,
        )
        self.service.repository.begin(Bootstrap(*beginning))
        self._family = key_folder.family_signer(folder / "owners", FAMILY, PASSPHRASE)
        self.publish(V1)

    def publish(self, release: Release) -> None:
        """Publish a release as its owners do."""
        for digest, data in release.chunks.items():
            self.service.chunk_files.put(digest, data)
        body = release.chunks[release.digest]
        role = publisher.add_release(
            self.service.repository.family_role(FAMILY),
            self._family,
            path=release.model.path,
            manifest=body,
            now=self.now,
        )
        self.service.repository.accept(role, body)

    @property
    def request(self) -> taking.Request:
        """What a backup is asked for."""
        return taking.Request(self.data, f"sqlite:///{self.data / 'shoal.db'}", "0.0.0", self.now)

    def take(self, out: Path) -> records.Description:
        """Take a backup, with a key that is quickly derived."""
        return taking.take(self.request, out, SECRET, cost=COST_MIN)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    """Give a control plane that lives while the test runs."""
    made = Plane(tmp_path)
    yield made
    made.service.database.close()


def restore(file: Path, data: Path, *, may_replace: bool = False) -> restoring.Restored:
    """Restore now."""
    return restoring.restore(file, data, SECRET, now=time.time(), may_replace=may_replace)


def test_a_restored_folder_is_the_one_that_was_backed_up(plane: Plane, tmp_path: Path) -> None:
    """Keys, authorities, repository and chunks; nothing of it for others to read."""
    out, target = tmp_path / "a.backup", tmp_path / "new" / "data"
    description = plane.take(out)
    assert out.stat().st_mode & 0o077 == 0
    assert (description.devices, description.releases, description.has_root_key) == (0, 1, True)
    assert description.roles == {"root": 1, "targets": 1, FAMILY: 2} | {
        role: int(plane.now) + 1 for role in ("snapshot", "timestamp")
    }
    assert restoring.inspect(out, SECRET) == description
    restore(out, target)
    for folder in ("keys", "ca", "chunks"):
        for file in (plane.data / folder).iterdir():
            assert (target / folder / file.name).read_bytes() == file.read_bytes()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (target, *target.rglob("*")))
    again = ReleaseService(target, plane.now)
    assert again.repository.files() == plane.service.repository.files()
    again.database.close()
    assert not list(tmp_path.rglob(".*"))


def test_a_restored_repository_goes_on_where_devices_are(plane: Plane, tmp_path: Path) -> None:
    """The lost one signed since; what the restored one signs at its start is newer still."""
    out, target = tmp_path / "a.backup", tmp_path / "data-2"
    plane.take(out)
    plane.service.now += 30
    plane.service.repository.seal()
    seen = plane.service.repository.files()
    first = verifier.refresh(tmp_path / "cache", seen["1.root.json"], seen, plane.service.now)
    restore(out, target)
    again = ReleaseService(target, plane.service.now + 60)
    again.repository.seal()
    files = again.repository.files()
    known = verifier.refresh(
        tmp_path / "cache", files["1.root.json"], files, again.now, dict(first.marks)
    )
    assert known.versions["timestamp"] > first.versions["timestamp"]
    again.database.close()


def test_a_backup_lists_nothing_that_it_lacks(plane: Plane, tmp_path: Path) -> None:
    """Taken again and again while owners publish and online keys change, each one is whole."""
    stop, failed = threading.Event(), list[BaseException]()

    def publish() -> None:
        try:
            for release in (V2, V3):
                plane.publish(release)
            while not stop.is_set():
                plane.service.repository.seal()
        except BaseException as error:  # noqa: BLE001 shown by the test
            failed.append(error)

    publishing = threading.Thread(target=publish)
    publishing.start()
    try:
        for number in range(5):
            out = tmp_path / f"{number}.backup"
            plane.take(out)
            restore(out, tmp_path / f"data-{number}")
    finally:
        stop.set()
        publishing.join()
    assert failed == []


def test_a_backup_replaces_no_file_and_leaves_none_behind(plane: Plane, tmp_path: Path) -> None:
    """Not a former backup, nor a part of one that could not be finished."""
    out = tmp_path / "a.backup"
    out.write_bytes(b"former")
    with pytest.raises(InputError, match="exists already"):
        plane.take(out)
    assert out.read_bytes() == b"former"
    (plane.data / records.chunk_name(V1.digest)).write_bytes(b"rotten")
    with pytest.raises(ChunkCorrupt):
        plane.take(tmp_path / "b.backup")
    (plane.data / records.chunk_name(V1.digest)).unlink()
    with pytest.raises(BackupInconsistent, match=V1.digest[:12]):
        taking.describe(plane.request)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.backup", "data", "owners"]
    assert not list(plane.data.glob(".backup*"))


def test_only_a_control_plane_of_sqlite_is_backed_up(plane: Plane, tmp_path: Path) -> None:
    """Another database has a tool of its own, which the refusal names."""
    with pytest.raises(ConfigInvalid) as refused:
        taking.describe(plane.request._replace(database="postgresql://db/shoal"))
    assert "pg_dump" in refused.value.hint
    with pytest.raises(InputError, match="no control plane"):
        taking.describe(plane.request._replace(data=tmp_path / "owners"))


def test_one_backup_at_a_time(plane: Plane, tmp_path: Path) -> None:
    """And what a killed one left is no hindrance."""
    leftover = plane.data / ".backup"
    leftover.mkdir()
    (leftover / "shoal.db").write_bytes(b"half")
    plane.take(tmp_path / "a.backup")
    with Staging(leftover), pytest.raises(ConflictError):
        plane.take(tmp_path / "b.backup")


def test_a_folder_that_is_not_empty_is_refused_or_set_aside(plane: Plane, tmp_path: Path) -> None:
    """Never deleted, and never under a running service."""
    out, target = tmp_path / "a.backup", tmp_path / "target"
    plane.take(out)
    target.mkdir()
    (target / "shoal.db").write_bytes(b"something else")
    with pytest.raises(ConflictError, match="not empty"):
        restore(out, target)
    with data_folder.Hold(target), pytest.raises(ConfigInvalid, match="another"):
        restore(out, target, may_replace=True)
    restored = restore(out, target, may_replace=True)
    assert restored.set_aside is not None
    assert (restored.set_aside / "shoal.db").read_bytes() == b"something else"
    assert (target / restoring.MARKER).exists()


def test_a_restore_may_be_repeated(plane: Plane, tmp_path: Path) -> None:
    """The same backup, before the first start: nothing to do. After it, it is refused."""
    out, target = tmp_path / "a.backup", tmp_path / "target"
    plane.take(out)
    (tmp_path / ".target.restoring").mkdir()
    assert not restore(out, target).is_repeated
    assert restore(out, target).is_repeated
    with data_folder.Hold(target):
        pass
    with pytest.raises(ConflictError):
        restore(out, target)


def test_the_audit_log_goes_on_after_a_restore(plane: Plane, tmp_path: Path) -> None:
    """Its chain is whole and tells of the restore; that later entries are missing is found."""
    before = AuditLog(plane.service.database).head()
    plane.take(tmp_path / "a.backup")
    plane.publish(V2)
    later = AuditLog(plane.service.database).head()
    restore(tmp_path / "a.backup", tmp_path / "target")
    with closing(Database.open(f"sqlite:///{tmp_path / 'target' / 'shoal.db'}")) as database:
        log = AuditLog(database)
        assert log.verify([before]).is_whole
        (entry,) = log.after(before.number, 10)
        assert entry.action == "backup.restored"
        assert not log.verify([later]).is_whole


def test_invitations_are_void_after_a_restore(plane: Plane, tmp_path: Path) -> None:
    """One that was used up since the backup would let somebody in once more."""
    invitation = InvitationRow("d" * 64, None, {}, 1, plane.now + 3600, "test")
    Invitations(plane.service.database).add(invitation, plane.now)
    plane.take(tmp_path / "a.backup")
    restore(tmp_path / "a.backup", tmp_path / "target")
    with closing(Database.open(f"sqlite:///{tmp_path / 'target' / 'shoal.db'}")) as database:
        assert Invitations(database).find("d" * 64, plane.now) is None


def test_patches_are_made_again_after_a_restore(plane: Plane, tmp_path: Path) -> None:
    """Their chunks are left out of a backup, so nothing may name them."""
    columns = "source, target, file, source_file, content, chunks, length, full_length, made"
    with closing(sqlite3.connect(plane.data / "shoal.db")) as connection, connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS patch ({columns})")
        row = ("a", "b", "model.tflite", "c", "d", '["e"]', 1, 2, 3.0)
        connection.execute(f"INSERT INTO patch ({columns}) VALUES (?,?,?,?,?,?,?,?,?)", row)  # noqa: S608 - constants
    plane.take(tmp_path / "a.backup")
    restore(tmp_path / "a.backup", tmp_path / "target")
    with closing(sqlite3.connect(tmp_path / "target" / "shoal.db")) as connection:
        assert connection.execute("SELECT count(*) FROM patch").fetchone() == (0,)


def rewritten(file: Path, change: dict[str, bytes | None]) -> Path:
    """Return a backup with some files changed or left out, sealed by somebody who may."""
    with file.open("rb") as opened:
        source = SealedReader(opened, SECRET)
        description = records.read_description(source)
        kept = {head.name: b"".join(data) for head, data in records.read_records(source)}
    files = {name: data for name, data in {**kept, **change}.items() if data is not None}
    out = file.with_name("changed.backup")
    with out.open("wb") as made, SealingWriter(made, SECRET, cost=COST_MIN) as sink:
        records.write_description(sink, msgspec.structs.replace(description, files=len(files)))
        for name, data in files.items():
            records.write_head(sink, records.Record(name=name, length=len(data)))
            sink.write(data)
    return out


@pytest.mark.parametrize(
    "change",
    [
        {"shoal.db": None},
        {"shoal.db": b"SQLite format 3\0" + bytes(4096)},
        {"ca/issuing.key": None},
        {"ca/root.pem": None},
        {"keys/timestamp.pem": None},
        {"keys/director.pem": b"no key"},
        {records.chunk_name(V1.digest): None},
        {records.chunk_name(V1.digest): b"other"},
    ],
    ids=lambda change: next(f"{name[:16]}-{data!r:.12}" for name, data in change.items()),
)
def test_parts_that_do_not_fit_are_never_placed(
    plane: Plane, tmp_path: Path, change: dict[str, bytes | None]
) -> None:
    """Everything is verified before anything is there."""
    plane.take(tmp_path / "a.backup")
    with pytest.raises(ShoalError) as refused:
        restore(rewritten(tmp_path / "a.backup", change), tmp_path / "target")
    assert refused.value.code in {"input.backup_inconsistent", "input.config_invalid"}
    assert not (tmp_path / "target").exists()
    assert not list(tmp_path.glob(".target*"))


def test_foreign_keys_do_not_fit(plane: Plane, tmp_path: Path) -> None:
    """Online keys that the owners' root does not name could sign nothing."""
    plane.take(tmp_path / "a.backup")
    other = ReleaseService(_made(tmp_path / "other"), plane.now)
    other.database.close()
    strange = (tmp_path / "other" / "keys" / "timestamp.pem").read_bytes()
    changed = rewritten(tmp_path / "a.backup", {"keys/timestamp.pem": strange})
    with pytest.raises(BackupInconsistent, match="timestamp"):
        restore(changed, tmp_path / "target")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_damaged_file_places_nothing(plane: Plane, tmp_path: Path) -> None:
    """Cut off or changed at its very end: the folder does not appear."""
    out = tmp_path / "a.backup"
    plane.take(out)
    whole = out.read_bytes()
    for data in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"shoal-backup\n"):
        out.write_bytes(data)
        with pytest.raises(BackupUnreadable):
            restore(out, tmp_path / "target")
        assert not (tmp_path / "target").exists()


def test_a_backup_of_a_stopped_and_expired_control_plane_is_restored(
    plane: Plane, tmp_path: Path
) -> None:
    """That online roles have expired is normal: the first start signs them again."""
    late = plane.request._replace(now=plane.now + 60 * 86_400)
    taking.take(late, tmp_path / "a.backup", SECRET, cost=COST_MIN)
    assert not restore(tmp_path / "a.backup", tmp_path / "target").is_repeated


def test_a_database_of_a_newer_release_is_refused(plane: Plane, tmp_path: Path) -> None:
    """Its schema is unknown here; the older program must not touch it."""
    plane.service.database.close()
    with closing(sqlite3.connect(plane.data / "shoal.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    plane.take(tmp_path / "a.backup")
    with pytest.raises(ConfigInvalid, match="9999"):
        restore(tmp_path / "a.backup", tmp_path / "target")


def test_the_commands_tell_what_was_done_and_what_to_do(
    plane: Plane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dry runs write nothing; answers can be read by a program; refusals have their exit code."""
    monkeypatch.setenv("SHOAL_BACKUP_PASSPHRASE", "correct horse")
    folder, target = _made(tmp_path / "safe"), tmp_path / "target"
    (plane.data / "settings.toml").write_text('advertise = "fleet.example"\n')
    data = ("--data", str(plane.data))
    assert run("backup", *data, "--dry-run", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["releases"] == 1
    assert run("backup", *data) == 2
    assert run("backup", *data, "--out", str(folder), "--output", "json") == 0
    (file,) = folder.iterdir()
    capsys.readouterr()
    assert run("backup", "inspect", str(file)) == 0
    assert "created" in capsys.readouterr().out
    assert run("restore", str(file), "--data", str(target), "--dry-run") == 0
    assert not target.exists()
    assert run("restore", str(file), "--data", str(target)) == 0
    told = capsys.readouterr().err
    assert f"shoal serve --data {target} --config {target / 'settings.toml'}" in told
    assert "Revoke again" in told
    assert 'advertise = "fleet.example"' in (target / "settings.toml").read_text()
    assert run("restore", str(file), "--data", str(plane.data)) != 0
    assert "conflict" in capsys.readouterr().err
    monkeypatch.setenv("SHOAL_BACKUP_PASSPHRASE", "wrong horse")
    assert run("backup", "inspect", str(file)) == 2
    assert "input.backup_unreadable" in capsys.readouterr().err


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    return int(ended.value.code or 0)


def test_chunks_that_no_release_needs_stay_out(plane: Plane, tmp_path: Path) -> None:
    """An upload that was never published is no part of the control plane."""
    stray = b"never published"
    plane.service.chunk_files.put(chunks.digest_of(stray), stray)
    plane.take(tmp_path / "a.backup")
    restore(tmp_path / "a.backup", tmp_path / "target")
    found = {path.name for path in (tmp_path / "target" / "chunks").iterdir()}
    assert found == set(V1.chunks)
