"""What was answered arrives, once, whatever is killed and however long the network is away."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from feeder import Feeder, Images
from fleet import SAMPLES, Installation, wait_until
from support.installations import serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable


def _received_ids(installation: Installation) -> dict[str, list[str]]:
    """The ids of all predictions that the control plane stored, by device, repeats included."""
    with sqlite3.connect(installation.data / "shoal.db") as database:
        rows = database.execute(
            "select device_id, incarnation, first, last from segment where kind = 'predictions'"
        ).fetchall()
    found: dict[str, list[str]] = {}
    for device, incarnation, first, last in rows:
        ids = (f"{incarnation}-{number}" for number in range(first, last + 1))
        found.setdefault(device, []).extend(ids)
    return found


def _feed(installation: Installation) -> Feeder:
    feeder = Feeder(Images.load(SAMPLES / "feed.npz"), label_every=10)
    feeder.start({device.id: device.socket for device in installation.devices.values()})
    return feeder


def _await_all(installation: Installation, feeder: Feeder) -> None:
    def all_there() -> bool:
        received = _received_ids(installation)
        return all(
            set(tally.answered) <= set(received.get(device, ()))
            for device, tally in feeder.tallies.items()
        )

    wait_until(all_there, "every answered prediction received", 60)


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_kills_lose_no_prediction_and_count_none_twice(
    install: Callable[[str], Installation],
) -> None:
    """After `kill -9` of a core, a worker and the control plane all answers arrive exactly once."""
    installation = install("mosquitto")
    serve_first_model(installation, 3)
    feeder = _feed(installation)
    time.sleep(2)
    first, second, _third = installation.devices.values()
    assert first.core is not None
    assert installation.server is not None

    first.core.kill()
    worker = second.worker_pid()
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    time.sleep(1)
    first.start()
    installation.server.kill()
    time.sleep(2)
    installation.start_server()
    wait_until(first.serves, "the first device serves again", 30)
    wait_until(second.serves, "the second device serves again", 30)
    time.sleep(3)
    feeder.stop()

    _await_all(installation, feeder)
    received = _received_ids(installation)
    for device, tally in feeder.tallies.items():
        ids = received[device]
        assert len(ids) == len(set(ids)), f"{device}: a prediction is counted twice"
        extra = set(ids) - set(tally.answered)
        assert len(extra) <= tally.unanswered, f"{device}: more than was under way at the kills"
        assert len(tally.answered) > 100
    shown = dict.fromkeys(received, 0)
    for row in installation.get("/telemetry/predictions")["devices"]:
        shown[row["device_id"]] += row["received"]
    assert shown == {device: len(ids) for device, ids in received.items()}


@pytest.mark.timeout(300)
def test_a_device_without_network_serves_buffers_and_catches_up(
    install: Callable[[str], Installation],
) -> None:
    """With broker and control plane away a device answers and keeps what it answered for later."""
    installation = install("amqtt")
    serve_first_model(installation, 1)
    feeder = _feed(installation)
    time.sleep(2)
    (device,) = installation.devices.values()
    tally = feeder.tallies[device.id]
    assert installation.server is not None

    installation.server.stop()
    before = len(tally.answered)
    time.sleep(4)
    assert len(tally.answered) > before + 50
    received = len(_received_ids(installation)[device.id])
    assert received < len(tally.answered)

    installation.start_server()
    time.sleep(1)
    feeder.stop()
    _await_all(installation, feeder)
    assert sorted(_received_ids(installation)[device.id]) == sorted(tally.answered)
