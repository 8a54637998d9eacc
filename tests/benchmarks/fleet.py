"""A fleet of simulated devices over mosquitto with mTLS: enrolled by batch, rolled out to, heard.

What is lost or counted twice, what control plane and broker take for it, and how near
`shoal rollout simulate` came to duration and bytes. How it is run stands in `support.fleet_run`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fleet import Installation, remove
from support import benchmark, fleet_run
from support.benchmark import Limit, Report
from support.fleet_run import Seen

_DEVICES = 1_000
_MEGABYTES_MAX = 512.0
_APART_MAX = 0.1
_UNMEASURED = float("nan")


def measure(devices: int) -> Report:
    """Let one fleet go through its life once."""
    # Unix socket paths are short.
    site = Installation(Path(tempfile.mkdtemp(prefix="shoal-bench-")), broker="mosquitto")
    try:
        return report(fleet_run.run(site, devices), devices)
    finally:
        site.stop()
        remove(site.root)


def report(seen: Seen, devices: int) -> Report:
    """Hold what was seen against its limits."""
    rolled = (seen.first, seen.second)
    side = seen.megabytes.get("control plane", _UNMEASURED) + seen.megabytes.get(
        "broker", _UNMEASURED
    )
    astray = {
        "devices not enrolled": devices - seen.enrolled,
        "devices not connected": devices - seen.connected,
        "rollouts not completed": sum(each.state != "completed" for each in rolled),
        "devices whose last signed report is not what is stored": seen.differing,
        "windows lost or counted twice": abs(seen.windows_sealed - seen.windows_stored),
        "models whose windows do not add up to the truth": seen.windows_unlike,
        "refusals by devices": sum(seen.refused.values()),
    }
    limits = [Limit(what=what, value=value, unit="", limit=0) for what, value in astray.items()]
    limits.append(
        Limit(what="control plane and broker at most", value=side, unit="MB", limit=_MEGABYTES_MAX)
    )
    limits += [
        Limit(what=f"{what} off the simulation's", value=value, unit="x", limit=_APART_MAX)
        for what, value in _apart(seen).items()
    ]
    return Report(
        limits=limits,
        figures={
            "enrolled, devices a second": seen.enrolled / seen.enrol_s,
            "all connected, s": seen.connect_s,
            "first rollout without soaks, s": seen.first.seconds,
            "second rollout without soaks, s": seen.second.seconds,
            "the same by a simulation, s": seen.foreseen.seconds if seen.foreseen else None,
            "the same by a simulation, model bytes a device": seen.foreseen.model_bytes / devices
            if seen.foreseen
            else None,
            "second rollout, model bytes a device": seen.second.model_bytes / devices,
            "second rollout, all bytes a device": seen.second.wire_bytes / devices,
            "windows": seen.windows_stored,
            "windows sealed, sent and acknowledged, s": seen.windows_s,
            **{f"{name}, MB at most": value for name, value in seen.megabytes.items()},
            **{f"{name}, processor s": value for name, value in seen.cpu_s.items()},
        },
    )


def _apart(seen: Seen) -> dict[str, float]:
    """Return how far the second rollout was from what was foreseen, as a share of that.

    Without a simulation nothing is measured, and what was not measured does not hold.
    """
    found, foreseen = seen.second, seen.foreseen
    return {
        "second rollout's duration": _UNMEASURED
        if foreseen is None
        else abs(found.seconds / foreseen.seconds - 1),
        "second rollout's model bytes": _UNMEASURED
        if foreseen is None
        else abs(found.model_bytes / foreseen.model_bytes - 1),
    }


if __name__ == "__main__":
    sys.exit(benchmark.main("fleet", measure, numbers={"devices": _DEVICES}))
