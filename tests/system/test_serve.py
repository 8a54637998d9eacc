"""`shoal serve` as a process: it starts, tells its token, answers, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S_MAX = 60.0
STOP_S_MAX = 5.0
SHOAL = Path(sys.executable).with_name("shoal")


class Served:
    """A control plane in a process of its own."""

    def __init__(self, data: Path, broker: str) -> None:
        self.data = data
        self.broker_port, self.local_port, self.port = (free_port() for _ in range(3))
        self.url = f"http://127.0.0.1:{self.local_port}"
        self._output = data.with_suffix(".log")
        self._command = [
            str(SHOAL), "serve", "--data", str(data), "--broker", broker,
            "--port", str(self.port), "--local-port", str(self.local_port),
            "--broker-port", str(self.broker_port),
        ]  # fmt: skip
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it answers."""
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(self._command, stdout=output, stderr=output)
        deadline = time.monotonic() + START_S_MAX
        while not self._is_up():
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)
        return self.process

    def said(self) -> str:
        """Return what it printed since its first start."""
        return self._output.read_text()

    def token(self) -> str:
        """Return the administrator's token that it printed."""
        found = re.search(r"^ +(shoal_\w+)$", self.said(), re.MULTILINE)
        assert found is not None, self.said()
        return found[1]

    def brokers(self) -> list[int]:
        """Return the processes of mosquitto that work in its folder."""
        return [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and works_in(entry, self.data / "broker")
        ]

    def stop(self) -> float:
        """End it by SIGTERM; returns the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(STOP_S_MAX) == 0, self.said()
        return time.monotonic() - begun

    def kill(self) -> None:
        """End it without a chance."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", trust_env=False).is_success
        except httpx.TransportError:
            return False


def works_in(process: Path, directory: Path) -> bool:
    """Whether a process, given as its folder in /proc, has this working directory."""
    try:
        return (process / "cwd").readlink() == directory
    except OSError:
        return False


@pytest.fixture(params=[pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "amqtt"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """Give a running control plane, with each kind of broker of its own."""
    made = Served(tmp_path / "data", request.param)
    yield made
    made.kill()


def test_it_starts_answers_and_stops(served: Served) -> None:
    """The printed token opens the API; SIGTERM ends everything within 5 s, broker included."""
    headers = {"Authorization": f"Bearer {served.token()}"}
    answer = httpx.get(f"{served.url}/api/v1/devices", headers=headers, trust_env=False)
    assert answer.json() == {"devices": [], "next": None}
    assert httpx.get(f"{served.url}/login", trust_env=False).status_code == 200
    # HTTPS is served with a certificate of the own CA, which nobody else trusts.
    secure = f"https://127.0.0.1:{served.port}/healthz"
    context = ssl.create_default_context(cafile=str(served.data / "ca.pem"))
    assert httpx.get(secure, verify=context, trust_env=False).json() == {"status": "ok"}
    with pytest.raises(httpx.ConnectError):
        httpx.get(secure, trust_env=False)
    assert served.stop() <= STOP_S_MAX
    assert served.brokers() == []
    assert "Traceback" not in served.said()
    # The folder may be one that everybody can enter: its files have secrets of devices.
    assert (served.data / "shoal.db").stat().st_mode & 0o077 == 0


@pytest.mark.needs("mosquitto")
def test_a_killed_control_plane_leaves_no_broker(tmp_path: Path) -> None:
    """After kill -9 its mosquitto ends by itself; the next start works, and tells no new token."""
    served = Served(tmp_path / "data", "mosquitto")
    token = served.token()
    assert len(served.brokers()) == 1
    served.kill()
    deadline = time.monotonic() + STOP_S_MAX
    while served.brokers():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    served.start()
    assert served.said().count("The administrator's token") == 1
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{served.url}/api/v1/tokens", headers=headers, trust_env=False)
    assert [each["name"] for each in answer.json()["tokens"]] == ["admin"]
    served.stop()


@pytest.mark.needs("mosquitto")
def test_a_dead_broker_is_started_again_and_a_folder_serves_one(tmp_path: Path) -> None:
    """A mosquitto that dies is replaced; a second control plane on the same data is refused."""
    served = Served(tmp_path / "data", "mosquitto")
    (first,) = served.brokers()
    os.kill(first, signal.SIGKILL)
    command = [str(SHOAL), "serve", "--data", str(served.data), "--port", "0", "--local-port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 2
    assert "another 'shoal serve' uses" in second.stderr
    assert "Traceback" not in second.stderr
    deadline = time.monotonic() + START_S_MAX
    while served.brokers() in ([], [first]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    served.stop()
    assert served.brokers() == []
