"""The demonstration as a whole: seconds of each step, memory of each process.

Next to it, measured in the same run: what a Python process weighs that only imports the libraries
of the agent's core, which no agent written in Python can go below.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from support import benchmark, process_cost
from support.benchmark import Limit, Report

_DEMO = Path(__file__).parents[2] / "scripts" / "demo" / "main.py"
_SECONDS_MAX = 90.0
_CORE_MB_MAX = 30.0


def _bare_core_mb() -> float:
    with process_cost.bare_core() as bare:
        return process_cost.memory_mb(bare)["Pss"]


def _run_demonstration() -> tuple[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        ended = subprocess.run(
            [sys.executable, str(_DEMO), "--headless", "--json", str(result)], check=False
        )
        seen: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
        return ended.returncode, seen


def measure() -> Report:
    """Run the demonstration once, with its default of eight devices."""
    status, seen = _run_demonstration()
    seconds, memory = seen.get("seconds", {}), seen.get("memory_mb", {})
    devices = seen.get("devices", [])
    astray = sum(abs(row["answered"] - row["received"]) for row in devices)
    return Report(
        limits=[
            Limit(what="exit status", value=status, unit="", limit=0),
            Limit(what="seconds in all", value=sum(seconds.values()), unit="s", limit=_SECONDS_MAX),
            Limit(what="predictions lost or counted twice", value=astray, unit="", limit=0),
            Limit(
                what="agent core, median of all",
                value=memory.get("agent core (median of all)", float("nan")),
                unit="MB",
                limit=_CORE_MB_MAX,
            ),
        ],
        figures={
            "bare process with the core's libraries, MB": _bare_core_mb(),
            "broker": seen.get("broker"),
            "predictions answered": sum(row["answered"] for row in devices),
            **{f"{step}, s": value for step, value in seconds.items()},
            **{f"{process}, MB": value for process, value in memory.items()},
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("demo", measure))
