"""The demonstration does the main job, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo" / "main.py"


def _programs_below(folder: str) -> list[str]:
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return [line for line in listing.stdout.splitlines() if folder in line]


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "broker", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "amqtt"]
)
def test_the_main_job_is_done(broker: str, tmp_path: Path) -> None:
    """Deploy, stage a better model to its end, stop a bad one by itself; lose no prediction."""
    result = tmp_path / "result.json"
    ended = subprocess.run(
        [
            sys.executable, str(DEMO), "--headless", "--devices", "4",
            "--broker", broker, "--json", str(result),
        ],
        capture_output=True, text=True, check=False, timeout=380,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = json.loads(result.read_text())
    assert seen["broker"] == broker
    assert [row["outcome"] for row in seen["rollouts"]] == ["completed", "completed", "rolled_back"]
    assert all(row["answered"] == row["received"] > 0 for row in seen["devices"])
    assert {row["reported_version"] for row in seen["devices"]} == {"2"}
    assert _programs_below("/shoal-demo-") == []
