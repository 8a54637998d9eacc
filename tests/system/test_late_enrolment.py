"""A device that enrols after a rollout's end serves what the others serve, by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fleet import Installation, wait_until
from support.installations import roll_out, serve_first_model, version_that_answers

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_a_device_that_enrols_after_the_end_gets_the_release(
    install: Callable[[str], Installation],
) -> None:
    """Nobody starts a rollout for it; it is counted apart, and goes back with the others."""
    installation = install("mosquitto")
    serve_first_model(installation, 1)
    installation.publish("v2", "2")
    roll_out(installation, "second", "2")
    before = installation.get("/rollouts/second")
    known = set(installation.devices)
    installation.enrol(1)
    (fresh,) = (each for name, each in installation.devices.items() if name not in known)
    fresh.start()

    def is_counted() -> bool:
        fresh.require_running()
        return bool(installation.get("/rollouts/second")["later"]["committed"] == 1)

    wait_until(is_counted, "the device that came later committed", 120)
    assert version_that_answers(fresh) == "2"
    after = installation.get("/rollouts/second")
    assert after["state"] == "completed"
    assert after["phases"] == before["phases"]
    assert any(
        sentence.startswith("after the end joined: 1 device of everywhere")
        for decision in after["decisions"]
        for sentence in decision["why"]
    )
    assert installation.get("/rollouts/first")["later"]["planned"] == 0
