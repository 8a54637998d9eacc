"""The audit log of a control plane: what is told, in the same transaction, and that it stays."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
from sqlalchemy import insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from control_plane.api import app as application
from control_plane.api import audit as audit_routes
from control_plane.api.auth import Role
from control_plane.audit import SERVICE, Entry, Statement
from control_plane.cli import main as command
from control_plane.store import audit
from control_plane.store.audit import AuditLog
from control_plane.store.cohorts import CohortRow, CohortRows
from control_plane.store.database import Database
from control_plane.store.schema import cohort
from firmware_bundles.errors import ConflictError
from support.control_planes import ControlPlane
from support.http import AppTransport
from support.http_server import serving
from support.rollout_service import RolloutService


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty database on disk."""
    made = Database.open(f"sqlite:///{tmp_path / 'log.db'}")
    yield made
    made.close()


def _file(database: Database) -> str:
    return str(database._engine.url.database)


def _note(log: AuditLog, count: int, who: str = SERVICE) -> None:
    for number in range(count):
        log.note(Statement(float(number), who, "thing.done", f"thing/{number}"))


def _tamper(database: Database, *statements: str | tuple[str, str]) -> None:
    """Change the file as somebody does who has it: triggers do not hold him."""
    with closing(sqlite3.connect(_file(database))) as connection, connection:
        for verb in ("update", "delete"):
            connection.execute(f"DROP TRIGGER audit_entry_no_{verb}")
        for statement in statements:
            text, *values = [statement] if isinstance(statement, str) else statement
            connection.execute(text, values)


def test_rows_are_only_ever_added(database: Database) -> None:
    """The database itself refuses to change or delete an entry."""
    _note(AuditLog(database), 2)
    for statement in ("DELETE FROM audit_entry", "UPDATE audit_entry SET actor = 'x'"):
        with pytest.raises(IntegrityError, match="only ever added"), database.transaction() as one:
            one.exec_driver_sql(statement)
    assert AuditLog(database).verify().is_whole


@pytest.mark.parametrize(
    ("tampering", "sentence"),
    [
        ("UPDATE audit_entry SET subject = 'thing/9' WHERE number = 3", "entry 3 was changed"),
        ("DELETE FROM audit_entry WHERE number = 3", "entry 3 is missing before entry 4"),
        ("UPDATE audit_entry SET number = 9 WHERE number = 2", "entry 9 was changed"),
        ("DELETE FROM audit_entry WHERE number > 3", "the log ends with entry 3"),
    ],
)
def test_what_was_done_to_the_file_is_found(
    database: Database, tampering: str, sentence: str
) -> None:
    """Whoever has the file can change it; which entry it was is told."""
    log = AuditLog(database)
    _note(log, 5)
    _tamper(database, tampering)
    assert any(fault.sentence.startswith(sentence) for fault in log.verify().faults)


def test_a_clean_cut_is_found_by_a_noted_head_alone(database: Database) -> None:
    """Who cuts off the end and sets the head back is found out by what was noted elsewhere."""
    log = AuditLog(database)
    _note(log, 3)
    former = log.head()
    _note(log, 2)
    noted = log.head()
    back = "UPDATE audit_head SET number = 3, digest = ?"
    _tamper(database, "DELETE FROM audit_entry WHERE number > 3", (back, former.digest))
    assert log.verify().is_whole
    (fault,) = log.verify([noted]).faults
    assert (fault.number, fault.kind) == (4, "cut_off")


def test_an_entry_is_there_if_what_it_tells_is(database: Database) -> None:
    """A refused change leaves no entry; one that fails after its entry takes the entry along."""
    rows, log = CohortRows(database), AuditLog(database)
    rows.add(CohortRow("all", "", 1.0), by="token:anna:shoal_1")
    with pytest.raises(ConflictError):
        rows.add(CohortRow("all", "site=a", 2.0), by="token:ben:shoal_2")
    with suppress(InterruptedError), database.transaction() as connection:
        connection.execute(insert(cohort).values(name="b", selector="", created=3.0))
        audit.append(connection, Statement(3.0, SERVICE, "cohort.made", "cohort/b"))
        raise InterruptedError
    (entry,) = log.after(0, 10)
    assert (entry.actor, entry.action, entry.subject) == (
        "token:anna:shoal_1", "cohort.made", "cohort/all",
    )  # fmt: skip
    assert json.loads(entry.details) == {"selector": ""}


def test_several_writers_make_one_chain(tmp_path: Path) -> None:
    """Processes that write at the same moment follow each other."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    databases = [Database.open(url) for _ in range(4)]
    threads = [
        threading.Thread(target=_note, args=(AuditLog(each), 25, f"device:{number}"))
        for number, each in enumerate(databases)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = AuditLog(databases[0]).verify()
    assert (found.is_whole, found.entries) == (True, 100)
    for each in databases:
        each.close()


def test_on_postgresql_writers_wait_for_the_head() -> None:
    """Two transactions there cannot both follow the same entry: the head's row is locked."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    told = str(audit._TAKE_HEAD.compile(dialect=dialect))
    assert told.endswith("FOR UPDATE")


def test_lists_are_filtered(database: Database) -> None:
    """By the name in an actor, and by how action and subject begin; the newest first, or after."""
    log = AuditLog(database)
    for actor, action in (
        ("token:anna:shoal_1", "token.made"),
        ("token:anna%:shoal_2", "token.made"),
        ("device:anna", "device.enrolled"),
        ("service", "rollout.ordered"),
    ):
        log.note(Statement(0.0, actor, action, "x/y"))

    def numbers(found: list[Entry]) -> list[int]:
        return [each.number for each in found]

    assert numbers(log.before(99, 10, actor="anna")) == [3, 1]
    assert numbers(log.before(99, 10, action="token")) == [2, 1]
    assert numbers(log.after(2, 10)) == [3, 4]
    assert numbers(log.after(0, 2, subject="x/")) == [1, 2]


def test_a_rollout_is_told_from_its_start_to_its_orders(tmp_path: Path) -> None:
    """Who started it, each decision with its reasons, each order with its range and count."""
    service = RolloutService(tmp_path)
    text = "id: r1\nfamily: digits\nrelease: '2'\ncohort: all\nphases: [{share: 1.0, soak_s: 1}]\n"
    client = _client(service, Role.OPERATOR)
    assert client.post("/api/v1/rollouts", content=text).status_code == 201
    service.step()
    assert client.post("/api/v1/rollouts/r1/pause").status_code == 200
    log = AuditLog(service.fleet.database)
    entries = log.after(0, 100, subject="rollout/r1")
    told = [(each.actor.partition(":")[0], each.action) for each in entries]
    assert told == [
        ("token", "rollout.created"),
        ("service", "rollout.decided"),
        ("service", "rollout.ordered"),
        ("token", "rollout.decided"),
    ]
    created, decided, ordered, paused = (json.loads(each.details) for each in entries)
    assert (created["devices"], created["release"]) == (8, "digits/2/manifest.json")
    assert decided["why"] == ["phase 1 of 1 begins: 8 devices to offer to"]
    assert (ordered["action"], ordered["first"], ordered["end"], ordered["devices"]) == (
        "offer", 0, 8, 8,
    )  # fmt: skip
    assert paused["why"] == ["paused by operator"]
    assert log.verify().is_whole
    service.fleet.database.close()


def _client(service: RolloutService, role: Role) -> httpx.Client:
    client = httpx.Client(transport=AppTransport(service.app), base_url="http://localhost")
    client.headers["Authorization"] = f"Bearer {service.token(role)}"
    return client


def test_what_persons_do_to_the_fleet_is_told(control_plane: ControlPlane) -> None:
    """Each deed once, with the name of the token that did it, and what devices did themselves."""
    admin = control_plane.client(Role.ADMIN)
    made = admin.post("/api/v1/tokens", json={"name": "ci", "role": "operator"}).json()
    invited = admin.post("/api/v1/enrolment-tokens", json={"device": "press-1"})
    assert invited.status_code == 201
    control_plane.enrol("press-1")
    for name in ("press-2", "press-3"):
        control_plane.enrol(name)
    log = AuditLog(control_plane.database)
    before = log.head().number
    admin.patch("/api/v1/devices/press-1", json={"labels": {"site": "a"}})
    admin.post("/api/v1/cohorts", json={"name": "a", "selector": "site=a"})
    admin.post("/api/v1/devices/press-1/revoke")
    admin.post("/api/v1/devices/press-2/retire")
    admin.post("/api/v1/devices/press-3/retire", json={"wait_s": 0})
    admin.delete(f"/api/v1/tokens/{made['prefix']}")
    entries = log.after(before, 100)
    assert {each.actor.rpartition(":")[0] for each in entries} == {"token:admin"}
    assert [(each.action, each.subject) for each in entries] == [
        ("device.labelled", "device/press-1"),
        ("cohort.made", "cohort/a"),
        ("device.revoked", "device/press-1"),
        ("device.retiring", "device/press-2"),
        ("device.retiring", "device/press-3"),
        ("device.retired", "device/press-3"),
        ("token.withdrawn", f"token/{made['prefix']}"),
    ]
    enrolled = log.after(0, 100, action="device.enrolled")
    assert [each.actor for each in enrolled] == [f"device:press-{n}" for n in (1, 2, 3)]
    assert made["token"] not in "".join(each.details for each in log.after(0, 100))


@pytest.fixture
def served(
    control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AuditLog]:
    """A running control plane whose log the command can ask for, with some entries."""
    log = AuditLog(control_plane.database)
    app = application.create("0.0.0", api=[audit_routes.router(control_plane.access, log)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.VIEWER))
    _note(log, 4, "token:anna:shoal_1")
    with serving(app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield log


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(["audit", *arguments])
    return int(ended.value.code or 0)


def test_the_command_verifies_lists_and_exports(
    served: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole log ends with 0, here and from its export, against the head that was noted."""
    assert run("head") == 0
    head = capsys.readouterr().out.strip()
    assert run("verify", "--head", head) == 0
    assert "whole: 5 entries" in capsys.readouterr().out
    assert run("list", "--actor", "anna", "--limit", "2") == 0
    listed = capsys.readouterr().out
    assert "thing/3" in listed
    assert "thing/1" not in listed
    assert run("export", "--out", "log.jsonl") == 0
    assert run("verify", "--file", "log.jsonl", "--head", head, "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["is_whole"] is True


def test_the_command_says_which_entry_was_tampered_with(
    served: AuditLog, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log that is not whole ends with 3 and names the entries; so does its export."""
    noted = str(served.head())
    assert run("export", "--out", "log.jsonl") == 0
    lines = Path("log.jsonl").read_bytes().splitlines(keepends=True)
    Path("cut.jsonl").write_bytes(b"".join(lines[:-1]))
    assert run("verify", "--file", "cut.jsonl", "--head", noted) == 3
    assert "the log ends with entry 4" in capsys.readouterr().out
    Path("broken.jsonl").write_bytes(lines[0] + b"{}\n")
    assert run("verify", "--file", "broken.jsonl") == 2
    assert "line 2" in capsys.readouterr().err
    _tamper(served._database, "UPDATE audit_entry SET actor = 'eve' WHERE number = 2")
    assert run("verify") == 3
    assert "entry 2 was changed" in capsys.readouterr().out


def test_the_api_verifies_too(served: AuditLog) -> None:
    """For a monitor that has no command: whole or not, against noted heads."""
    head, token = served.head(), {"Authorization": f"Bearer {os.environ['SHOAL_TOKEN']}"}
    address = os.environ["SHOAL_SERVER"]
    query = {"noted": str(head)}
    url = f"{address}/api/v1/audit/verification"
    assert httpx.get(url, params=query, headers=token).json()["is_whole"] is True
    assert httpx.get(url, params={"noted": "9:x"}, headers=token).status_code == 422
