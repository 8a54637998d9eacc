"""SIGKILLs at random instants: cores, workers and tasks of several devices amid updates.

Each update is killed repeatedly until it has ended. Beside it in the same run: how long one device
takes to answer after a kill while nothing else happens.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT
from support import benchmark, field, kills
from support.benchmark import Limit, Report

_KILLS = 1_000
_DEVICES = 3
_MINUTES_MAX = 25.0
_AWAY_S_MAX = 2.0
_QUIET_KILLS = 5
_TOLD_EVERY = 50
_END_S = 90.0  # for the updates that are still under way, and the start of it all


def _quiet_s(agent: field.Agent) -> float:
    """Seconds until one device answers again after its core was killed, all others being idle."""
    found = []
    for _ in range(_QUIET_KILLS):
        former = agent.worker_pid()
        began = time.monotonic()
        agent.kill("core")
        agent.start()
        while agent.worker_pid() in {None, former}:
            time.sleep(0.005)
        agent.away_s()
        found.append(time.monotonic() - began)
    return kills.seconds_of(0.5, found)


def _tell(count: int) -> None:
    if count % _TOLD_EVERY == 0:
        print(f"{count} kills", file=sys.stderr, flush=True)


def measure(**numbers: int) -> Report:
    """Run devices side by side over one mosquitto."""
    kills_wanted = numbers["kills"]
    seed = int(time.time())
    minutes_max = _MINUTES_MAX * max(1.0, kills_wanted / _KILLS)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="shoal-") as folder,
        field.field(Path(folder), _DEVICES) as (director, agents),
    ):
        quiet_s = _quiet_s(agents[0])
        left_s = minutes_max * 60 - _END_S - (time.monotonic() - began)
        seen = kills.at_random(director, agents, kills_wanted, seed, s_max=left_s, on_kill=_tell)
    for each in seen.broken:
        print(f"broken: {each}", file=sys.stderr)
    return Report(
        limits=[
            Limit(what="updates that ended otherwise than promised", value=len(seen.broken),
                  unit="", limit=0),
            Limit(what="stored chunks that were fetched again", value=seen.fetched_again,
                  unit="", limit=0),
            Limit(what="chunks sent twice, most a kill of one update",
                  value=seen.excess_per_kill_max, unit="", limit=CHUNK_WINDOW_DEFAULT),
            Limit(what="serving again after a kill, slowest", value=max(seen.away_s, default=0.0),
                  unit="s", limit=_AWAY_S_MAX),
            Limit(what="minutes in all", value=(time.monotonic() - began) / 60,
                  unit="min", limit=minutes_max),
            Limit(what="kills", value=sum(seen.kills.values()), unit="", limit=kills_wanted,
                  bound=">="),
        ],
        figures={
            **{f"kills of a {victim}": count for victim, count in sorted(seen.kills.items())},
            "updates": seen.updates,
            **{f"  {end}": count for end, count in seen.ends.most_common()},
            "serving again, median, s": kills.seconds_of(0.5, seen.away_s),
            "serving again, 99 of 100, s": kills.seconds_of(0.99, seen.away_s),
            "serving again with the others idle, median, s": quiet_s,
            "devices side by side": _DEVICES,
            "seed": seed,
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(benchmark.main("kills", measure, numbers={"kills": _KILLS}))
