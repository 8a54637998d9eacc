"""A rollout is taken back: devices serve their former model again, without a download."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fleet import Device, Installation, wait_until
from processes import program
from support.installations import roll_out, serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable


def _agent(device: Device, verb: str, *words: str) -> Any:  # noqa: ANN401 - a JSON document
    ended = subprocess.run(
        [
            program("shoal-agent"), "--state-dir", str(device.state), verb, *words,
            "--run-dir", str(device.run_dir), "--output", "json",
        ],
        capture_output=True, text=True, check=False, timeout=60, env=os.environ,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def _serving(device: Device) -> str | None:
    (both,) = _agent(device, "slots").values()
    return next((slot["version"] for slot in both if slot["is_serving"]), None)


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_a_rolled_back_fleet_serves_the_former_model_without_a_download(
    install: Callable[[str], Installation],
) -> None:
    """Also the device that was off meanwhile: it follows when it says hello."""
    installation = install("mosquitto")
    serve_first_model(installation, 2)
    installation.publish("v2", "2")
    roll_out(installation, "second", "2")
    first, second = installation.devices.values()
    installed = [each["installed_count"] for each in _agent(first, "slots")["digits"]]
    assert (_serving(first), _serving(second)) == ("2", "2")

    second.stop()
    installation.shoal("rollout", "rollback", "second")
    wait_until(lambda: _serving(first) == "1", "the first device went back", 60)
    assert _serving(second) == "2"
    second.start()
    wait_until(lambda: _serving(second) == "1", "the second device follows", 60)
    for device in (first, second):
        slots = _agent(device, "slots")["digits"]
        assert [each["installed_count"] for each in slots] == installed
        told = device.core.log.read_text() if device.core else ""
        assert "event=order-taken" in told
    installation.shoal("rollout", "watch", "second", "--timeout", "60", accept=(3,))

    done = _agent(first, "rollback")
    assert (done["version"], done["state"]) == ("2", "rolled_back")
