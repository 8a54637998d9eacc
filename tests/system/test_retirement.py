"""A retired device leaves with nothing: real agents, workers, models and broker."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Any

import pytest

from feeder import Feeder, Images
from fleet import SAMPLES, Device, Installation, wait_until
from support.installations import serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def shown(installation: Installation, device: Device) -> dict[str, Any]:
    """What the control plane says of a device."""
    found: dict[str, Any] = installation.get(f"/devices/{device.id}")
    return found


def has_left(device: Device) -> bool:
    """Whether the agent ended by itself."""
    return device.core is not None and not device.core.is_running


def recorded(spool: Path) -> int:
    """How much lies in the spool of a device: bytes of journals, and segments."""
    if journals := sum(path.stat().st_size for path in spool.glob("*.log")):
        return journals
    with sqlite3.connect(spool / "buffer.db") as database:
        return int(database.execute("select count(*) from segment").fetchone()[0])


def held(device: Device) -> list[str]:
    """What a device's disk holds of models, of predictions, and of who it is."""
    folders = ("slots", "chunks", "trust", "identity", "identity.new", "identity-before")
    found = [name for name in folders if (device.state / name).exists()]
    found += [path.name for path in device.state.glob("identity-*")]
    return found + ["spool"] * bool(recorded(device.state / "spool"))


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_retired_devices_erase_all_and_confirm_before_their_access_ends(
    install: Callable[[str], Installation],
) -> None:
    """One hears of it at once; one was off, hears it at its hello, and loses power half-way."""
    installation = install("mosquitto")
    serve_first_model(installation, 2)
    here, away = installation.devices.values()
    feeder = Feeder(Images.load(SAMPLES / "feed.npz"), label_every=10)
    feeder.start({device.id: device.socket for device in (here, away)})
    time.sleep(1)
    assert away.core is not None
    away.core.kill()
    feeder.stop()
    before = len(list((away.state / "slots").rglob("model.tflite")))
    assert before > 0

    for device in (here, away):
        installation.shoal("device", "retire", device.id)
    wait_until(lambda: has_left(here), "the device that is on erases all and leaves", 60)
    assert held(here) == []
    assert shown(installation, here)["erased"] is not None
    assert "retiring" in installation.shoal("device", "list")

    assert shown(installation, away)["access"] == "retiring"
    away.start()
    log = installation.logs / f"{away.id}.log"
    wait_until(lambda: "event=retired" in log.read_text(), "the other hears of it", 60)
    away.core.kill()
    assert shown(installation, away)["erased"] is None or held(away) == []
    away.start()
    wait_until(lambda: has_left(away), "it goes on where it was, and leaves", 60)
    assert held(away) == []
    wait_until(lambda: shown(installation, here)["access"] == "retired", "its access ends", 60)
    assert "retired" in installation.shoal("device", "show", here.id)
