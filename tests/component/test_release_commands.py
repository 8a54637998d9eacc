"""Owners' commands against a running API: keys, sign, publish, list."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.api.auth import Role
from control_plane.cli import main as command
from support.http_server import serving
from support.release_service import ReleaseService

SAMPLES = Path(__file__).parents[2] / "firmware_bundles/samples/digits"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseService]:
    """A running control plane that the environment points to."""
    (tmp_path / "plane").mkdir()
    service = ReleaseService(tmp_path / "plane", time.time())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_TOKEN", service.token(Role.ADMIN))
    monkeypatch.setenv("SHOAL_KEY_PASSPHRASE", "correct horse")
    with serving(service.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield service
    service.database.close()


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    return int(ended.value.code or 0)


def build(version: str, folder: str) -> None:
    """Build one of the sample's versions."""
    source = SAMPLES / f"v{version}"
    arguments = (
        "bundle", "build", "--family", "digits", "--version", version, "--out", folder,
        "--model", str(source / "model.tflite"), "--labels", str(source / "labels.txt"),
        "--golden", str(source / "golden.npz"), "--heldout", str(source / "heldout.npz"),
    )  # fmt: skip
    assert run(*arguments) == 0


def test_an_owner_gets_from_keys_to_a_published_release(
    service: ReleaseService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four commands, and the release is there; a floor can come with the next one."""
    assert run("keys", "init", "--out", "keys", "--family", "digits") == 0
    for version, terms in (("1", ()), ("2", ("--min-release", "2", "--withdraw", "1"))):
        build(version, f"digits-{version}")
        assert run("release", "sign", f"digits-{version}", "--keys", "keys", *terms) == 0
        assert run("release", "publish", f"digits-{version}") == 0
    capsys.readouterr()
    assert run("release", "list", "--output", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["version"], row["number"], row["is_withdrawn"]) for row in rows] == [
        ("1", 1, True),
        ("2", 2, False),
    ]
    assert run("release", "list") == 0
    assert "VERSION" in capsys.readouterr().out


def test_publishing_without_signing_says_what_to_do(
    service: ReleaseService, capsys: pytest.CaptureFixture[str]
) -> None:
    """The forgotten step is named."""
    assert run("keys", "init", "--out", "keys", "--family", "digits") == 0
    build("1", "digits-1")
    assert run("release", "publish", "digits-1") == 2
    assert "shoal release sign digits-1" in capsys.readouterr().err


def test_wrong_passphrase_key_and_token_are_told_apart(
    service: ReleaseService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has its own sentence and exit code."""
    assert run("keys", "init", "--out", "keys", "--family", "digits") == 0
    build("1", "digits-1")
    sign = ("release", "sign", "digits-1", "--keys", "keys")
    monkeypatch.setenv("SHOAL_KEY_PASSPHRASE", "wrong horse")
    assert run(*sign) == 2
    assert "passphrase" in capsys.readouterr().err
    monkeypatch.setenv("SHOAL_KEY_PASSPHRASE", "correct horse")
    assert run(*sign, "--token", "nobody") == 5
    assert "access.not_authenticated" in capsys.readouterr().err


def test_a_second_root_is_refused_and_the_keys_are_kept(
    service: ReleaseService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was made is never thrown away because a server said no."""
    assert run("keys", "init", "--out", "keys", "--family", "digits") == 0
    assert run("keys", "init", "--out", "other", "--family", "digits") == 1
    assert "conflict" in capsys.readouterr().err
    assert (tmp_path / "other" / "root-1.pem").exists()
    assert run("keys", "upload", "--keys", "keys") == 1
