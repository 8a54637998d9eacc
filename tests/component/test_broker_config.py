"""What an operator is told for a broker of their own, and of devices that asked it for too much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from control_plane.api.auth import Role
from control_plane.broker import acl
from control_plane.cli import main as cli
from control_plane.fleet.misconduct import Misconduct
from firmware_bundles.errors import ReportReplayed, SignatureInvalid, SubscriptionExceeded
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
    out = tmp_path / "out"
    assert shoal(control_plane, Role.OPERATOR, "config", "--out", str(out)) == 0
    names = {file.name for file in out.iterdir()}
    assert names == {"mosquitto.conf", "acl", "ca.pem", "crl.pem"}
    x509.load_pem_x509_crl((out / "crl.pem").read_bytes())
    assert "DEVICE writes" in capsys.readouterr().out


def shoal(control_plane: ControlPlane, role: Role, *words: str) -> int:
    """Run a command as somebody with this role; return its exit status."""
    with serving(control_plane.app) as url:
        try:
            cli.main(["--server", url, "--token", control_plane.token(role), "broker", *words])
        except SystemExit as ended:
            return int(ended.code or 0)
    return 0


def test_a_broker_gets_a_certificate_that_devices_trust(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    """Under the names that were asked for, as a server only; its key stays and is kept."""
    words = ("certificate", "--name", "broker.example", "--name", "10.0.0.1", "--out")
    assert shoal(control_plane, Role.ADMIN, *words, str(tmp_path)) == 0
    leaf, issuer = x509.load_pem_x509_certificates((tmp_path / "server.pem").read_bytes())
    leaf.verify_directly_issued_by(issuer)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    key = (tmp_path / "server.key").read_bytes()
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0
    assert shoal(control_plane, Role.ADMIN, *words, str(tmp_path)) == 0
    assert (tmp_path / "server.key").read_bytes() == key
    assert shoal(control_plane, Role.OPERATOR, *words, str(tmp_path)) == 5


def test_a_broken_key_is_told(
    control_plane: ControlPlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not replaced behind the owner's back."""
    (tmp_path / "server.key").write_bytes(b"no key")
    words = ("certificate", "--name", "b", "--out", str(tmp_path))
    assert shoal(control_plane, Role.ADMIN, *words) == 2
    assert "server.key cannot be read" in capsys.readouterr().err
    assert (tmp_path / "server.key").read_bytes() == b"no key"


def test_the_broker_is_shown(
    control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is retained, what is left to HTTPS, and how old the list of revoked certificates is."""
    assert shoal(control_plane, Role.VIEWER, "show") == 0
    said = capsys.readouterr().out
    assert "1.0 MiB in 20 chunks, of 256.0 MiB at most" in said
    assert "2.0 MiB in 40 chunks" in said
    assert "trust.report_replayed=2" in said


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


def test_what_is_refused_in_a_name_is_shown_beside_the_device(control_plane: ControlPlane) -> None:
    """A row for each code; who floods us with invented names fills no memory."""
    control_plane.enrol("press-1")
    seen = Misconduct(control_plane.devices, control_plane.clock)
    seen.refused("press-1", SignatureInvalid("not its key"))
    seen.refused("press-1", ReportReplayed("again"))
    for number in range(5_000):
        seen.refused(f"ghost-{number}", SignatureInvalid("not its key"))
    seen.refused("press-1", ReportReplayed("again"))
    assert len(seen._seen) == 1_000
    seen.tick()
    shown = control_plane.client(Role.VIEWER).get("/api/v1/devices/press-1").json()
    counts = {row["code"]: row["count"] for row in shown["misconduct"]}
    assert counts == {"trust.signature_invalid": 1, "trust.report_replayed": 2}
