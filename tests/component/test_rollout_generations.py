"""Generations that a rollout gives to what it tells devices, on a real database."""

from __future__ import annotations

from pathlib import Path

from control_plane.fleet.selectors import Selector
from control_plane.rollouts import verbs
from control_plane.rollouts.executor import Executor
from control_plane.store.rollouts import Rollouts
from support.rollout_fleet import RowFleet, digest, rollout

SPEC = """
family: digits
release: "2"
cohort: all
phases: [{share: 1.0, soak_s: 0}]
"""


def _generations(fleet: RowFleet) -> dict[str, int]:
    return {each: fleet.wants(each)["generation"] for each in fleet.devices}


def test_generations_only_grow(tmp_path: Path) -> None:
    """An order is newer than the last, than what the device reported, and never below the time."""
    fleet = RowFleet(tmp_path, size=4)
    ahead, *others = fleet.devices
    fleet.serve("1")
    fleet.report(ahead, generation=9_000, state="committed", serving=digest("1"))
    rollouts, told = Rollouts(fleet.database), list[str]()
    rollouts.create(rollout(SPEC, "example"), Selector())
    Executor(rollouts, told.extend, lambda: 5_000.5).tick()
    offered = {ahead: 9_001} | dict.fromkeys(others, 5_000)
    assert _generations(fleet) == offered
    assert set(told) == set(fleet.devices)
    fleet.obey()
    found = rollouts.get("example")
    rollouts.save(found, verbs.rollback(found, rollouts.view(found), 5_001, by="anna"), 5_001)
    Executor(rollouts, told.extend, lambda: 1_000.0).tick()  # a clock that was set back
    assert _generations(fleet) == {each: number + 1 for each, number in offered.items()}
    fleet.database.close()
