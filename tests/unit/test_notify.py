"""What a service manager is told, and that nobody is disturbed where there is none."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.inference.watchdog import Watchdog
from agent.notify import Notifier


class Ear:
    """A manager's socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Return all that was said until now."""
        said = []
        while True:
            try:
                said.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return said


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give an address of either kind that sd_notify(3) knows."""
    return str(tmp_path / "n") if request.param == "path" else f"@shoal-test-{os.getpid()}"


@pytest.fixture
def ear(address: str) -> Iterator[Ear]:
    """Give a manager that listens."""
    made = Ear(address)
    yield made
    made.socket.close()


def test_a_manager_hears_how_the_service_is(address: str, ear: Ear) -> None:
    """In the words of sd_notify(3), one datagram each."""
    notifier = Notifier(address)
    notifier.ready("starting")
    notifier.status("connected")
    notifier.stopping()
    assert ear.heard() == [
        "READY=1\nSTATUS=starting",
        "STATUS=connected",
        "STOPPING=1\nSTATUS=stopping",
    ]


def test_the_variables_are_taken_and_not_handed_on() -> None:
    """A child of the service must not speak in its name, nor believe it is watched."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "KEPT": "1"}
    assert Notifier.from_environment(environ).watchdog_s == 3
    assert environ == {"KEPT": "1"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_who_is_not_watched_does_not_beat(environ: dict[str, str]) -> None:
    """Without a limit, or with one that is meant for another process, the beat ends at once."""
    notifier = Notifier.from_environment(environ)
    assert notifier.watchdog_s is None
    asyncio.run(asyncio.wait_for(notifier.beat(), 5))


def test_a_manager_that_is_away_or_busy_disturbs_nobody(tmp_path: Path) -> None:
    """Nothing is raised and nothing waits, however much is told to one that does not listen."""
    Notifier(str(tmp_path / "nobody")).ready("x")
    busy = Ear(str(tmp_path / "busy"))
    for _ in range(2000):
        Notifier(str(tmp_path / "busy")).status("x")
    assert 0 < len(busy.heard()) < 2000
    busy.socket.close()


def test_a_service_with_a_fault_does_not_beat(address: str, ear: Ear) -> None:
    """A loop that turns while what it is for is dead must not keep the service alive."""

    async def run() -> list[str]:
        notifier = Notifier(address, watchdog_s=0.03)
        fault = ""
        notifier.watch(lambda: fault)
        beating = asyncio.create_task(notifier.beat())
        await asyncio.sleep(0)
        fault = "the recorder ended"
        await asyncio.sleep(0.3)
        beating.cancel()
        return ear.heard()

    assert asyncio.run(run()) == ["WATCHDOG=1", "STATUS=the recorder ended"]


def test_silence_is_measured_from_the_last_word(tmp_path: Path) -> None:
    """A worker that beats is left alone; one that stops, or whose predecessor beat, is not."""

    async def run() -> tuple[bool, float]:
        watchdog = Watchdog(tmp_path / "n", 0.3)
        watchdog.open()
        environ = dict(watchdog.environment)
        notifier = Notifier.from_environment(environ)
        assert notifier.watchdog_s == 0.3
        silence = asyncio.create_task(watchdog.silence())
        await asyncio.sleep(0)
        notifier.ready("x")
        beating = asyncio.create_task(notifier.beat())
        await asyncio.sleep(1)
        was_left_alone = not silence.done()
        beating.cancel()
        silent_s = await silence
        watchdog.close()
        return was_left_alone, silent_s

    was_left_alone, silent_s = asyncio.run(run())
    assert was_left_alone
    assert silent_s >= 0.3
    assert not (tmp_path / "n").exists()
