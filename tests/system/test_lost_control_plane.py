"""The whole control plane is lost and comes back from a backup, while its devices serve on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fleet import Installation, wait_until
from support.installations import roll_out, serve_first_model, shell, version_that_answers
from support.pages import follow

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "back-up-and-restore.md"


class Fleet:
    """Two devices that serve, the fire, and what was known before it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        installation.start_server()
        serve_first_model(installation, 2)
        self.words = {
            "/var/lib/shoal": str(installation.data),
            "/mnt/safe": str(installation.root),
            "digits-2": str(installation.root / "bundles" / "v2"),
        }

    def lose(self) -> None:
        """Go on after the backup, then end as a burning machine does; restore elsewhere."""
        self.installation.publish("v2", "2")
        roll_out(self.installation, "second", "2")
        self.before = self.standing()
        assert self.installation.server is not None
        self.installation.server.kill()
        shutil.rmtree(self.installation.data)
        assert self.answers() == ["2", "2"]
        self.installation.data = self.installation.root / "elsewhere"
        self.words["/var/lib/shoal"] = str(self.installation.data)

    def start(self) -> None:
        """Start what was restored; it knows nothing of what came after the backup."""
        self.installation.start_server()
        assert [row["version"] for row in self.installation.get("/releases")] == ["1"]

    def answers(self) -> list[str]:
        """Return the versions that answer applications on the devices."""
        return [version_that_answers(device) for device in self.installation.devices.values()]

    def devices(self) -> list[dict[str, Any]]:
        """Return what the control plane knows of each device."""
        names = sorted(self.installation.devices)
        return [self.installation.get(f"/devices/{name}") for name in names]

    def certificates(self) -> list[bytes]:
        """Return what devices show at the broker."""
        folders = [device.state / "identity" for device in self.installation.devices.values()]
        return [file.read_bytes() for folder in folders for file in sorted(folder.glob("*.pem"))]

    def standing(self) -> dict[str, int]:
        """Return the versions of all roles, and the generations that are wanted of devices."""
        told = self.installation.shoal(
            "backup", "--dry-run", "--data", str(self.installation.data), "--output", "json"
        )
        roles: dict[str, int] = json.loads(told)["roles"]
        return roles | {each["id"]: each["desired"][0]["generation"] for each in self.devices()}


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(600)
def test_a_lost_control_plane_is_restored_and_the_fleet_goes_on(
    install: Callable[[str], Installation],
) -> None:
    """By the page: no device enrols again, nothing goes back, the next rollout completes."""
    fleet = Fleet(install("mosquitto"))
    known = fleet.certificates()
    hooks = {"lose": fleet.lose, "start": fleet.start}
    follow(PAGE, shell(fleet.installation, fleet.words, hooks))
    wait_until(lambda: all(each["is_online"] for each in fleet.devices()), "devices again", 60)
    roll_out(fleet.installation, "third", "1")

    assert fleet.answers() == ["1", "1"]
    assert fleet.certificates() == known
    after = fleet.standing()
    assert after.keys() == fleet.before.keys()
    assert all(after[name] >= version for name, version in fleet.before.items())
    risen = {"snapshot", "timestamp", *fleet.installation.devices}
    assert all(after[name] > fleet.before[name] for name in risen)
