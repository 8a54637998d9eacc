"""The pages on keys and access, followed word by word at a running installation."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet import Installation, wait_until
from support import pages
from support.installations import roll_out, serve_first_model, shell, version_that_answers

if TYPE_CHECKING:
    from collections.abc import Callable

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
ROTATE, LOST, REVOKE = (
    HOW_TO / f"{name}.md" for name in ("rotate-keys", "lost-or-stolen-key", "revoke-a-device")
)


class Reader:
    """Somebody with an installation of one device, who does what the pages say."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        installation.start_server()
        serve_first_model(installation, 1)
        installation.publish("v2", "2")
        (self.device,) = installation.devices.values()
        shutil.copy(installation.data / "ca.pem", installation.root / "ca.pem")
        leaked = installation.shoal("token", "create", "leaked", "--output", "json")
        words = {
            "/var/lib/shoal-agent": str(self.device.state),
            "/var/lib/shoal": str(installation.data),
            "https://fleet.example:8443": f"https://127.0.0.1:{installation.port}",
            "press-1": self.device.id,
            "TOKEN_PREFIX": json.loads(leaked)["prefix"],
        }
        hooks: dict[str, Callable[..., None]] = {
            "lose": lambda name: (installation.keys / name).unlink(),
            "restart": self.restart,
            "stop": self.stop,
            "start": installation.start_server,
        }
        self._shell = shell(installation, words, hooks)

    def follow(self, page: Path) -> str:
        """Do what a page says."""
        return pages.follow(page, self._shell)

    def stop(self) -> None:
        """Stop the control plane."""
        assert self.installation.server is not None
        self.installation.server.stop()

    def restart(self, name: str) -> None:
        """Restart the agent after it was enrolled anew; it served until then."""
        assert name == "press-1"
        assert version_that_answers(self.device) == "1"
        self.device.stop()
        stopped = time.time()
        self.device.start()
        wait_until(lambda: self._is_back(stopped), "the device again", 90)

    def _is_back(self, stopped: float) -> bool:
        """Whether the device is online since it stopped, and its model is ready."""
        self.device.require_running()
        shown = self.installation.get(f"/devices/{self.device.id}")
        is_online = bool(shown["is_online"] and shown["last_seen"] > stopped)
        return is_online and listens(self.device.socket) and self.device.serves()


def listens(path: Path) -> bool:
    """Whether somebody answers at a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(600)
def test_every_procedure_on_keys_and_access_works(install: Callable[[str], Installation]) -> None:
    """After each page the device follows: the next rollout completes, and the model answers."""
    reader = Reader(install("mosquitto"))
    reader.follow(ROTATE)
    roll_out(reader.installation, "rotated", "1")
    reader.follow(LOST)
    reader.follow(REVOKE)
    roll_out(reader.installation, "recovered", "1")
    assert version_that_answers(reader.device) == "1"
