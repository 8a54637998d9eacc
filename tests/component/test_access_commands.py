"""`shoal device` and `shoal token` against a running API: who gets in, shown and changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from agent import cli as agent_command
from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.cli import output
from control_plane.cli.token import Role as RoleChoice
from control_plane.fleet.misconduct import Misconduct
from firmware_bundles.errors import InputError, NotFound, SignatureInvalid, TransferError
from support.control_planes import ControlPlane
from support.http_server import serving


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """A running control plane that the environment points to, with two devices."""
    control_plane = ControlPlane(tmp_path, time.time())
    for name in ("press-1", "press-2"):
        control_plane.enrol(name)
    monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.ADMIN))
    with serving(control_plane.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield control_plane
    control_plane.close()


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    return int(ended.value.code or 0)


def lines(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was printed, by the first word of each line."""
    printed = capsys.readouterr().out.splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in printed if line.split()}


def test_the_list_shows_who_gets_in(
    fleet: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """Enrolled with the days that its certificate has; retiring with the time that is left."""
    assert run("device", "retire", "press-2", "--wait-days", "2") == 0
    assert "told to erase" in capsys.readouterr().err
    assert run("device", "list") == 0
    shown = lines(capsys)
    assert shown["press-1"].startswith("enrolled ends in 60 d")
    assert shown["press-2"].startswith("retiring, until 20")
    assert run("device", "retire", "press-2", "--now") == 0
    assert run("device", "revoke", "press-1") == 0
    capsys.readouterr()
    assert run("device", "list") == 0
    shown = lines(capsys)
    assert shown["press-1"].startswith("revoked 20")
    assert "erasure not confirmed" in shown["press-2"]
    assert run("--output", "json", "device", "list") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["access"] for each in found] == ["revoked", "retired"]


def test_what_a_device_should_not_do_is_shown(
    fleet: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy subscriptions and refused reports, counted by kind; what else was refused is not."""
    misconduct = Misconduct(fleet.devices, fleet.clock)
    for wanted in ("shoal/v1/chunk/+", "#"):
        misconduct.subscribed("press-1", wanted)
    misconduct.tick()
    misconduct.subscribed("press-1", "shoal/#")
    misconduct.refused("press-1", SignatureInvalid("a report is signed by nobody we know"))
    misconduct.refused("press-1", NotFound("not enrolled"))
    misconduct.refused("press-1", TransferError("away"))
    misconduct.refused("nobody", SignatureInvalid("of nobody"))
    misconduct.tick()
    assert run("device", "show", "press-1") == 0
    out = capsys.readouterr().out
    assert "refused of what was done in its name" in out
    shown = {line.split()[0]: line.split()[1] for line in out.splitlines() if "." in line[:30]}
    assert shown["access.subscription_exceeded"] == "3"
    assert shown["trust.signature_invalid"] == "1"
    assert "not_found" not in out


def test_a_token_is_made_shown_once_and_withdrawn(
    fleet: ControlPlane, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It allows what its role says, until it is withdrawn; the list never shows its text."""
    assert run("token", "create", "ci", "--role", "viewer") == 0
    made = lines(capsys)
    assert (made["name"], made["role"]) == ("ci", "viewer")
    assert run("token", "list") == 0
    listed = capsys.readouterr().out
    assert made["prefix"] in listed
    assert made["token"] not in listed
    administrator = fleet.token(Role.ADMIN)
    monkeypatch.setenv("SHOAL_TOKEN", made["token"])
    assert run("device", "list") == 0
    assert run("device", "revoke", "press-1") == 5
    assert run("token", "list") == 5
    monkeypatch.setenv("SHOAL_TOKEN", administrator)
    assert run("token", "revoke", made["prefix"]) == 0
    assert run("token", "revoke", made["prefix"]) == 2
    monkeypatch.setenv("SHOAL_TOKEN", made["token"])
    assert run("device", "list") == 5


def test_the_command_knows_the_roles_of_the_api() -> None:
    """They are written down twice, for the command imports nothing of the service."""
    assert [each.value for each in RoleChoice] == [each.value for each in Role]


def test_both_commands_tell_the_version_and_word_hints_alike(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The version of what is installed; a hint stands on its own line, named as such."""
    version = metadata.version("shoal")
    assert run("--version") == 0
    with pytest.raises(SystemExit) as ended:
        agent_command.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.splitlines() == [f"shoal {version}", f"shoal-agent {version}"]
    output.fail(InputError("wrong", hint="Do it right."))
    assert capsys.readouterr().err.splitlines()[1] == "hint: Do it right."


def test_the_api_has_no_page_that_loads_from_elsewhere(fleet: ControlPlane) -> None:
    """It describes itself by a document; its reader is the caller's own."""
    with fleet.browser() as browser:
        assert browser.get("/api/v1/docs").status_code == 404
        assert browser.get("/api/v1/openapi.json").json()["info"]["title"] == "shoal"
