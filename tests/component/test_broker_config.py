"""What an operator is told for a broker of their own, and of devices that asked it for too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from control_plane.api.auth import Role
from control_plane.broker import acl
from control_plane.cli import main as cli
from control_plane.fleet.misconduct import Misconduct
from firmware_bundles.errors import SubscriptionExceeded
from support.http_server import serving

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from support.control_planes import ControlPlane


def test_an_operator_gets_the_files_of_a_broker(control_plane: ControlPlane) -> None:
    """Configuration for any address, the access rules, and who certifies; a viewer gets none."""
    operator = control_plane.client(Role.OPERATOR)
    found = operator.get("/api/v1/broker/config", params={"host": "10.0.0.1", "port": 8884}).json()
    assert "listener 8884 10.0.0.1\n" in found["files"]["mosquitto.conf"]
    assert "crlfile crl.pem\n" in found["files"]["mosquitto.conf"]
    assert found["files"]["acl"] == acl.text()
    assert found["files"]["ca.pem"].count("BEGIN CERTIFICATE") == 2
    assert "DEVICE reads shoal/v1/d/DEVICE/down/#" in found["rules"]
    assert control_plane.client(Role.VIEWER).get("/api/v1/broker/config").status_code == 403


def test_an_address_cannot_carry_settings(control_plane: ControlPlane) -> None:
    """What is put into the file is checked."""
    operator = control_plane.client(Role.OPERATOR)
    for host in ("a\nallow_anonymous true", "a b", ""):
        answer = operator.get("/api/v1/broker/config", params={"host": host})
        assert answer.status_code == 422


def test_the_command_writes_them(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`shoal broker config --out` makes the folder that mosquitto is started in."""
    token = control_plane.token(Role.OPERATOR)
    out = tmp_path / "out"
    with serving(control_plane.app) as url:
        try:
            cli.main(["--server", url, "--token", token, "broker", "config", "--out", str(out)])
        except SystemExit as ended:
            assert ended.code in {0, None}  # noqa: PT017 - the command ends like this
    assert {file.name for file in out.iterdir()} == {"mosquitto.conf", "acl", "ca.pem"}
    assert "DEVICE writes" in capsys.readouterr().out


def test_misconduct_is_counted_and_shown(control_plane: ControlPlane) -> None:
    """Each device has one row that grows; a name that is no device's leaves none."""
    control_plane.enrol("press-1")
    seen = Misconduct(control_plane.devices, control_plane.clock)
    for _ in range(3):
        seen.subscribed("press-1", "shoal/v1/chunk/+")
        seen.subscribed("nobody", "#")
    seen.tick()
    seen.subscribed("press-1", "#")
    seen.tick()
    seen.tick()
    shown = control_plane.client(Role.VIEWER).get("/api/v1/devices/press-1").json()
    (row,) = shown["misconduct"]
    assert (row["code"], row["count"]) == (SubscriptionExceeded.code, 4)
    assert "'#'" in row["message"]
