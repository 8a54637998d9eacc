"""A mosquitto that its owner runs by the files of `shoal broker`, and that a thief has taken over.

Fleet and control plane come to it by mTLS, as the files say. The thief has a listener of its own,
with a password, and may read and write everything: no more can be had of a broker.
"""

from __future__ import annotations

import base64
import hashlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from control_plane.broker import mosquitto
from firmware_bundles.wire import topics
from processes import Program, free_port
from support.broker_hall import answers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fleet import Installation

THIEF = "thief"
PASSWORD = "the broker's machine was entered"
_START_S_MAX = 20.0


class StolenBroker:
    """The broker of one installation."""

    def __init__(self) -> None:
        self.port, self.thief_port = free_port(), free_port()
        self.url = f"mqtts://127.0.0.1:{self.port}"
        self._program: Program | None = None
        self._folder, self._log = Path(), Path()
        self._environment: Mapping[str, str] = {}

    def start(self, installation: Installation) -> None:
        """Do what the owner of a broker does, and let the thief in."""
        self._folder = installation.root / "broker"
        port, out = str(self.port), str(self._folder)
        installation.shoal("broker", "config", "--host", "127.0.0.1", "--port", port, "--out", out)
        installation.shoal("broker", "certificate", "--name", "127.0.0.1", "--out", out)
        with (self._folder / "mosquitto.conf").open("a") as file:
            # It is started by whoever runs the tests, in a folder that only they may enter.
            file.write(
                f"user root\nlistener {self.thief_port} 127.0.0.1\npassword_file passwords\n"
            )
        (self._folder / "passwords").write_text(f"{THIEF}:{_hashed(PASSWORD)}\n")
        self.deliver(is_wanted=True)
        self._log, self._environment = installation.logs / "broker.log", installation.environment
        self.run()

    def run(self) -> None:
        """Start mosquitto, at first or after its death; it remembers nothing."""
        program = mosquitto.find()
        assert program is not None
        command = ["env", "--chdir", str(self._folder), program, "-c", "mosquitto.conf"]
        self._program = Program("broker", command, self._log, self._environment)
        self._program.wait_for(self._listens, "listeners", _START_S_MAX)

    def kill(self) -> None:
        """Let it die at once."""
        assert self._program is not None
        self._program.kill()

    def _listens(self) -> bool:
        return answers(self.port) and answers(self.thief_port)

    def deliver(self, *, is_wanted: bool) -> None:
        """Hand on what is said to devices, or keep it all back."""
        path = self._folder / "acl"
        kept = self._folder / "acl.genuine"
        if not kept.exists():
            kept.write_text(path.read_text())
        genuine = kept.read_text().splitlines()
        down = f"pattern read {topics.all_down('%u')}"
        assert down in genuine
        lines = [line for line in genuine if is_wanted or line != down]
        path.write_text("\n".join([*lines, f"user {THIEF}", "topic readwrite shoal/v1/#", ""]))
        if self._program is not None:
            os.kill(self._program.pid, signal.SIGHUP)

    def stop(self) -> None:
        """End it."""
        if self._program is not None:
            self._program.stop()


def _hashed(password: str) -> str:
    """Return a line's second half in a password file of mosquitto 2 (PBKDF2-SHA512)."""
    salt, rounds = os.urandom(12), 101
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    parts = (base64.b64encode(part).decode() for part in (salt, digest))
    return "$".join(("", "7", str(rounds), *parts))
