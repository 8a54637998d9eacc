"""The whole control plane is lost and comes back from a backup, while its devices serve on."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from fleet import Device, Installation, wait_until
from support.installations import roll_out, serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.5] * 64}


def answers(device: Device) -> str:
    """Return the version that answers an application on the device."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(device.socket))) as client:
        answer = client.post("http://shoal/v2/models/digits/infer", json={"inputs": [IMAGE]})
    assert answer.status_code == httpx.codes.OK, answer.text
    return str(answer.json()["model_version"])


def identities(installation: Installation) -> dict[str, bytes]:
    """Return the certificate of each device."""
    return {
        device.id: next((device.state / "identity").glob("*.pem")).read_bytes()
        for device in installation.devices.values()
    }


def shown(installation: Installation) -> list[dict[str, Any]]:
    """Return what the control plane knows of each device."""
    return [installation.get(f"/devices/{name}") for name in sorted(installation.devices)]


def versions(installation: Installation) -> dict[str, int]:
    """Return the version of each role that the control plane holds now."""
    told = installation.shoal(
        "backup", "--dry-run", "--data", str(installation.data), "--output", "json"
    )
    found: dict[str, int] = json.loads(told)["roles"]
    return found


def generations(installation: Installation) -> dict[str, int]:
    """Return the generation that is wanted of each device."""
    return {each["id"]: each["desired"][0]["generation"] for each in shown(installation)}


def lose(installation: Installation) -> None:
    """End the control plane as a burning machine does: its folder is gone."""
    assert installation.server is not None
    installation.server.kill()
    shutil.rmtree(installation.data)


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_a_lost_control_plane_is_restored_and_the_fleet_goes_on(
    install: Callable[[str], Installation], tmp_path: Path
) -> None:
    """No device enrols again; what was signed since is published again; nothing goes back."""
    installation = install("mosquitto")
    installation.start_server()
    serve_first_model(installation, 2)
    secret, backup = tmp_path / "secret", tmp_path / "shoal.backup"
    secret.write_text("a passphrase of its own\n")
    words = ("--passphrase-file", str(secret))
    installation.shoal("backup", "--data", str(installation.data), "--out", str(backup), *words)
    installation.publish("v2", "2")
    roll_out(installation, "second", "2")
    known, before = identities(installation), (versions(installation), generations(installation))

    lose(installation)
    assert [answers(device) for device in installation.devices.values()] == ["2", "2"]
    installation.data = installation.root / "elsewhere"
    target = ("--data", str(installation.data))
    installation.shoal("restore", str(backup), *target, *words)
    installation.start_server()
    assert [row["version"] for row in installation.get("/releases")] == ["1"]
    installation.shoal("release", "publish", str(installation.root / "bundles" / "v2"))
    wait_until(
        lambda: all(device["is_online"] for device in shown(installation)), "devices again", 60
    )
    roll_out(installation, "third", "1")

    assert [answers(device) for device in installation.devices.values()] == ["1", "1"]
    assert identities(installation) == known
    after = (versions(installation), generations(installation))
    for former, present in zip(before, after, strict=True):
        assert set(former) == set(present)
        assert all(present[name] >= value for name, value in former.items())
    assert all(after[0][role] > before[0][role] for role in ("snapshot", "timestamp"))
    assert all(after[1][name] > value for name, value in before[1].items())
