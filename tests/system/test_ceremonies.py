"""The owners' ceremonies on a running installation: a device that stays connected follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.installations import roll_out, serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet import Installation


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_a_device_follows_its_owners_while_it_runs(install: Callable[[str], Installation]) -> None:
    """Every key is replaced, a lost one among them; the next rollout works, nothing was refused."""
    installation = install("mosquitto")
    serve_first_model(installation, 1)
    (device,) = installation.devices.values()
    (installation.keys / "root-2.pem").unlink()
    names = ("root-2", "targets", "digits", "snapshot", "timestamp", "director")
    installation.shoal("keys", "rotate", *names, "--keys", str(installation.keys))
    installation.publish("v2", "2")
    roll_out(installation, "second", "2")
    installation.shoal("keys", "rotate", "director", "--keys", str(installation.keys))
    roll_out(installation, "back", "1")
    shown = installation.get(f"/devices/{device.id}")
    assert shown["detected"] == []
    (reported,) = shown["reported"]
    first = next(row for row in installation.get("/releases") if row["version"] == "1")
    assert reported["serving_digest"] == first["digest"]
