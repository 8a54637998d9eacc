"""The identity on disk: one takes the place of another whole, and a key may be kept elsewhere."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from agent import cli, config, doctor, enrolment, identity, reenrolment, task
from agent.core import load_identity
from agent.task_messages import SignReport
from firmware_bundles.errors import ConfigInvalid, InputError, NotEnrolled
from firmware_bundles.trust import envelopes
from firmware_bundles.wire.messages import Report
from support.control_planes import ControlPlane
from support.https import open_door

DAY_S = 86_400
SWAP = Path(__file__).parents[1] / "support" / "identity_swap.py"


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_death_at_any_step_leaves_one_whole_identity(tmp_path: Path, kind: str) -> None:
    """The old one or the new one, never a mixture; and the next enrolment mends the rest."""
    done = subprocess.run(
        [sys.executable, "-P", str(SWAP), str(tmp_path / "device"), kind],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) > 15
    after = [line[0] for line in lines]
    turn = after.index("new")
    assert after == ["old"] * turn + ["new"] * (len(after) - turn)
    assert {tuple(line[1:]) for line in lines} <= {("again", "1"), ("again", "2")}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[ControlPlane, str]]:
    """Give a control plane behind HTTPS."""
    control_plane = ControlPlane(tmp_path, time.time())
    with open_door(control_plane, tmp_path / "door") as url:
        yield control_plane, url
    control_plane.close()


def enrol(door: tuple[ControlPlane, str], folder: Path, key: Path | None, *, new: bool) -> None:
    """Enrol the device `press-1`, whose key is in `key`."""
    control_plane, url = door
    enrolment.enrol(
        folder / "device",
        server=url,
        token=control_plane.invite("press-1"),
        ca=folder / "door" / "ca.pem",
        device=None,
        wants_new_key=new,
        key_file=key,
    )


def handed_down(folder: Path, key: bytes, mode: int = 0o400) -> Path:
    """A folder of credentials as the service manager makes it."""
    made = folder / "credentials"
    made.mkdir()
    (made / identity.KEY).write_bytes(key)
    (made / identity.KEY).chmod(mode)
    made.chmod(0o500)
    return made


@pytest.mark.parametrize("mode", [0o400, 0o440])
def test_a_key_in_a_credential_does_all_that_a_key_does(
    door: tuple[ControlPlane, str], tmp_path: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS, reports and renewal use it where it is; no copy is made, and it is never written."""
    control_plane, _url = door
    key_file = tmp_path / "for-systemd-creds" / identity.KEY
    key_file.parent.mkdir()
    control_plane.clock.now = time.time() - 45 * DAY_S
    enrol(door, tmp_path, key_file, new=False)
    control_plane.clock.now = time.time()
    assert key_file.stat().st_mode & 0o777 == 0o600
    folder = handed_down(tmp_path, key_file.read_bytes(), mode)
    key_file.unlink()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    state_dir = tmp_path / "device"
    settings = config.load(state_dir, {}, os.environ)
    assert settings.origins["key_file"] == "systemd credential"
    assert list(state_dir.rglob("*.key")) == []

    found = asyncio.run(load_identity(state_dir, settings.config.key_file))
    assert found.key_path == folder / identity.KEY
    report = Report(
        device="press-1",
        incarnation="0" * 16,
        counter=1,
        time=1.0,
        agent_version="1",
        families=(),
    )
    signed = task.sign_report(SignReport(key_path=str(found.key_path), report=report))
    pem = control_plane.devices.public_keys_pem(["press-1"]).get("press-1")
    assert pem is not None
    known = envelopes.device_key("press-1", pem)
    assert envelopes.open_envelope(Report, signed.envelope, [known]) == report

    before = (found.directory / identity.CERTIFICATE).read_bytes()
    assert reenrolment.renew(state_dir, time.time(), found.key_file).is_new
    after = (found.directory / identity.CERTIFICATE).read_bytes()
    assert x509.load_pem_x509_certificate(after) != x509.load_pem_x509_certificate(before)
    assert [path.name for path in folder.iterdir()] == [identity.KEY]
    assert list(state_dir.rglob("*.key")) == []


@pytest.mark.parametrize(("mode", "is_good"), [(0o600, True), (0o400, True), (0o640, False)])
def test_a_key_that_others_may_read_is_refused(
    door: tuple[ControlPlane, str], tmp_path: Path, *, mode: int, is_good: bool
) -> None:
    """By everything that would use it, with what to do about it."""
    enrol(door, tmp_path, None, new=False)
    state_dir = tmp_path / "device"
    (identity.folder(state_dir) / identity.KEY).chmod(mode)
    if is_good:
        assert identity.load(state_dir).device == "press-1"
        return
    with pytest.raises(ConfigInvalid, match="others may read it") as refused:
        identity.load(state_dir)
    assert "chmod 0600" in refused.value.hint
    checks = doctor.examine(config.load(state_dir, {}, {}).config)
    assert ("enrolled", doctor.Result.FAILED) in [(each.name, each.result) for each in checks]


def test_a_group_may_read_a_key_only_where_nobody_writes(tmp_path: Path) -> None:
    """The mode of an access list counts in the service manager's folder alone."""
    key = tmp_path / identity.KEY
    key.write_bytes(b"key")
    key.chmod(0o440)
    with pytest.raises(ConfigInvalid):
        identity.check_private(key)
    tmp_path.chmod(0o500)
    identity.check_private(key)
    tmp_path.chmod(0o700)


def test_a_new_key_does_not_overwrite_a_key_file(
    door: tuple[ControlPlane, str], tmp_path: Path
) -> None:
    """It is made in another file; the identity before it counts until then."""
    first, second = tmp_path / "first.key", tmp_path / "second.key"
    enrol(door, tmp_path, first, new=False)
    kept = first.read_bytes()
    with pytest.raises(InputError, match="holds a key already"):
        enrol(door, tmp_path, first, new=True)
    assert first.read_bytes() == kept
    enrol(door, tmp_path, second, new=True)
    assert second.read_bytes() != kept
    control_plane, _url = door
    assert control_plane.devices.public_keys_pem(["press-1"]).get("press-1") is not None


def test_what_a_device_was_is_gone_after_it_left(
    door: tuple[ControlPlane, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No key and no secret stays, and the agent says that it is not enrolled."""
    enrol(door, tmp_path, None, new=False)
    enrol(door, tmp_path, None, new=False)
    state_dir = tmp_path / "device"
    identity.forget(state_dir)
    left = [path.name for path in state_dir.iterdir()]
    assert [name for name in left if "identity" in name] == []
    with pytest.raises(NotEnrolled):
        identity.load(state_dir)
    assert cli.main(["--state-dir", str(state_dir), "run"]) == cli.FAILED
    assert "not enrolled" in capsys.readouterr().err
