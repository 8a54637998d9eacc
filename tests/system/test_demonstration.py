"""The demonstration does the main job, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import command_line

DEMO = Path(__file__).parents[2] / "scripts" / "demo" / "main.py"


def _programs_below(folder: Path) -> list[str]:
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [line for pid in pids if str(folder) in (line := command_line(pid))]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demonstration makes its own folder; short, for the sake of unix sockets."""
    made = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "broker", [pytest.param("mosquitto", marks=pytest.mark.needs("mosquitto")), "amqtt"]
)
def test_the_main_job_is_done(broker: str, folder: Path, tmp_path: Path) -> None:
    """Deploy, stage a better model to its end, stop a bad one by itself; lose no prediction."""
    result = tmp_path / "result.json"
    ended = subprocess.run(
        [
            sys.executable, str(DEMO), "--headless", "--devices", "4",
            "--broker", broker, "--json", str(result),
        ],
        capture_output=True, text=True, check=False, timeout=380,
        env=os.environ | {"TMPDIR": str(folder)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen = json.loads(result.read_text())
    assert seen["broker"] == broker
    assert [row["outcome"] for row in seen["rollouts"]] == ["completed", "completed", "rolled_back"]
    assert all(row["answered"] == row["received"] > 0 for row in seen["devices"])
    assert seen["drift"]["device"] == seen["drift"]["darkened"]
    assert seen["drift"]["changed"] == [seen["drift"]["darkened"]]
    assert seen["drift"]["columns"][0].startswith("image[")
    assert (seen["drift"]["event"], seen["drift"]["is_signed"]) == ("shoal.alert.raised", True)
    assert {row["reported_version"] for row in seen["devices"]} == {"2"}
    # The bad model was stopped in the shadow, by inputs that both models answered: nobody saw it.
    stopped = [sentence for why in seen["rollouts"][2]["why"] for sentence in why]
    assert any("were wrong only by the release" in each and "above" in each for each in stopped)
    assert all("3" not in row["answered_by_version"] for row in seen["devices"])
    _require_nothing_left(folder)


@pytest.mark.timeout(120)
def test_an_interrupted_demonstration_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle of a step ends every program and removes the folder."""
    output = tmp_path / "output"
    with output.open("wb") as sink:
        demo = subprocess.Popen(
            [sys.executable, "-u", str(DEMO), "--devices", "4", "--broker", "amqtt"],
            stdout=sink,
            stderr=sink,
            env=os.environ | {"TMPDIR": str(folder)},
        )
    deadline = time.monotonic() + 80
    while "==> roll model 1 out" not in output.read_text() and time.monotonic() < deadline:
        assert demo.poll() is None, output.read_text()
        time.sleep(0.2)
    were_there = len(_programs_below(folder))
    demo.send_signal(signal.SIGINT)
    assert demo.wait(30) == 1
    assert were_there > 4
    _require_nothing_left(folder)


def _require_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert _programs_below(folder) == []
