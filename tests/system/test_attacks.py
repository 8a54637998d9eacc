"""The table of attacks, each against real programs over a real mosquitto that a thief has taken.

What is said, why, and with which code it is refused stands in `support.attack_table`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fleet import wait_until
from support.attack_row import Attack, Victim
from support.attack_table import ATTACKS
from support.scene import PATIENCE_S, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs("mosquitto"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Give one installation for all attacks: each leaves it as it was."""
    made = Scene()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_attack(scene: Scene, attack: Attack) -> None:
    """It is refused with its code, the model answers on, reports tell, and work goes on."""
    before = scene.refusals(attack.code), _suspicions(scene, attack)
    # What one row leaves behind when it fails must not fail the next.
    with scene.given_back(), attack.stage(scene):
        if attack.victim is Victim.DEVICE:
            scene.await_refusal(attack.code, before[0])
        elif attack.victim is not Victim.NOBODY:
            wait_until(
                lambda: _suspicions(scene, attack) > before[1],
                f"{attack.code} beside the device",
                PATIENCE_S,
            )
        assert scene.version_that_answers() == "2"
        scene.thief.restore()
    scene.roll_out("2")
    assert scene.version_that_answers() == "2"
    (reported,) = scene.shown()["reported"]
    assert reported["serving_version"] == "2"
    if attack.victim is Victim.DEVICE:
        told = scene.refusals(attack.code)
        wait_until(
            lambda: scene.reported(attack.code) >= told, f"{attack.code} in a report", PATIENCE_S
        )


def test_after_attacks_the_fleet_takes_a_new_release(scene: Scene) -> None:
    """Nothing that a thief did keeps the owners from what they want, there and back."""
    scene.publish("v1", "6")
    for release in ("6", "2"):
        scene.roll_out(release)
        assert scene.version_that_answers() == release


def _suspicions(scene: Scene, attack: Attack) -> int:
    is_other = attack.victim is Victim.CONTROL_PLANE_OF_THE_OTHER
    return scene.suspicions(attack.code, scene.other if is_other else None)
