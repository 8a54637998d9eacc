"""SIGKILL of core, worker and task in every state of a deployment, and at random instants."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT
from support import kills
from support.field import field

SEED = 20261121


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("system")
def test_killed_in_any_state_an_update_ends_well(
    short_folder: Path,
    is_long_run: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Made from the states themselves: each process dies in each of them; then at random."""
    aims = kills.every_aim()
    with field(short_folder, 3) as (director, agents):
        seen = kills.aimed(director, agents, aims * (5 if is_long_run else 1), SEED)
        assert seen.broken == []
        assert sum(seen.kills.values()) >= len(aims)
        more = kills.at_random(director, agents, 200 if is_long_run else 6, SEED)
    assert more.broken == []
    for each in (seen, more):
        assert each.fetched_again == 0
        assert each.excess_per_kill_max <= CHUNK_WINDOW_DEFAULT
