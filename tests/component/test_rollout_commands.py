"""`shoal rollout` against a running API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.rollouts.schema import json_schema
from support.http_server import serving
from support.rollout_service import RolloutService

FILE = """\
id: example
family: digits
release: "2"
cohort: all
phases: [{share: 0.25, soak_s: 1}, {share: 1.0, soak_s: 1}]
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutService]:
    """A running control plane that the environment points to, and a rollout file."""
    made = RolloutService(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_TOKEN", made.token(Role.OPERATOR))
    Path("rollout.yaml").write_text(FILE)
    with serving(made.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield made
    made.fleet.database.close()


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(["rollout", *arguments])
    return int(ended.value.code or 0)


@contextmanager
def _living(service: RolloutService, state: str = "committed") -> Iterator[None]:
    """Let executor and devices act while the block runs."""
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.05):
            service.step(state=state)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_a_rollout_is_started_watched_and_explained(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Start prints the id, watch tells each decision and ends with 0, explain tells all again."""
    assert run("start", "rollout.yaml") == 0
    assert capsys.readouterr().out == "example\n"
    with _living(service):
        assert run("watch", "example", "--timeout", "60") == 0
    watched = capsys.readouterr().out
    assert "phase 2 of 2 begins: 6 devices to offer to" in watched
    assert "completed: by signed report, 8 devices on digits/2/manifest.json" in watched
    assert run("explain", "example") == 0
    explained = capsys.readouterr().out
    assert watched.strip() in explained
    assert (
        "installs        pass            value 0, threshold 0.05, 8 offered, 8 finished, 0 broken"
        in explained
    )
    assert run("list") == 0
    assert "completed" in capsys.readouterr().out


def test_watching_a_bad_release_ends_with_3(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """A halted rollout is no success to the shell."""
    assert run("start", "rollout.yaml") == 0
    service.step(state="failed")
    with _living(service):
        assert run("watch", "example", "--timeout", "60", "--output", "json") == 3
    captured = capsys.readouterr()
    assert json.loads(captured.out.removeprefix("example\n"))["state"] == "rolled_back"
    assert "above the limit" in captured.err


def test_watching_in_vain_ends_with_4(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who waits no longer is told that it goes on."""
    assert run("start", "rollout.yaml") == 0
    assert run("watch", "example", "--timeout", "0") == 4
    assert "rollout example is still running" in capsys.readouterr().err


def test_a_dry_run_starts_nothing(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what would be reached."""
    assert run("start", "rollout.yaml", "--dry-run") == 0
    assert "2, 8" in capsys.readouterr().out
    assert run("list") == 0
    assert "no rollouts" in capsys.readouterr().err


@pytest.mark.usefixtures("service")
def test_the_schema_is_that_of_the_control_plane(capsys: pytest.CaptureFixture[str]) -> None:
    """Editors get the form of rollout files from the one that will read them."""
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_persons_step_in(service: RolloutService, capsys: pytest.CaptureFixture[str]) -> None:
    """Each verb shows where the rollout stands after it; one that is not allowed says why."""
    assert run("start", "rollout.yaml") == 0
    for verb, state in (("pause", "paused"), ("resume", "running"), ("abort", "cancelled")):
        assert run(verb, "example") == 0
        assert f"is {state}" in capsys.readouterr().out
    assert run("watch", "example") == 3
    assert run("resume", "example") == 1
    assert "cannot be resumed (conflict)" in capsys.readouterr().err
    assert run("rollback", "example") == 0
    assert run("show", "example") == 0
    assert "is rolling back" in capsys.readouterr().out
    assert run("devices", "example") == 0
    assert "planned" in capsys.readouterr().out


def test_mistakes_are_one_line(service: RolloutService, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken file, a missing file and an unknown rollout each have their sentence."""
    Path("broken.yaml").write_text(FILE.replace("share: 1.0", "shar: 1.0"))
    assert run("start", "broken.yaml") == 2
    assert capsys.readouterr().err == (
        "error: line 5: phases[1].shar: there is no such field (input.rollout_invalid)\n"
        "hint: Did you mean share?\n"
    )
    assert run("start", "missing.yaml") == 2
    assert "cannot read missing.yaml" in capsys.readouterr().err
    assert run("show", "../devices") == 2
    assert "input.not_found" in capsys.readouterr().err


def test_a_file_is_checked_and_a_strict_one_refused(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """A check says what is doubtful; --strict makes a warning an exit status."""
    assert run("check", "-f", "rollout.yaml") == 0
    out = capsys.readouterr().out
    assert "warning  phases[0].soak_s: soaks for 1 s; devices report every 900 s" in out
    assert run("check", "-f", "rollout.yaml", "--strict") == 3
    capsys.readouterr()
    assert run("start", "rollout.yaml", "--dry-run", "--strict") == 3
    capsys.readouterr()
    assert run("start", "rollout.yaml", "--strict") == 3
    assert "(input.rollout_doubtful)" in capsys.readouterr().err
    assert service.rollouts.all() == []
    assert run("start", "rollout.yaml") == 0
    told = capsys.readouterr()
    assert told.out == "example\n"
    assert "(phase.soak_short)" in told.err


def test_a_rollout_is_simulated(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the real cohort or a made-up fleet, in words or as JSON, with a transcript."""
    assert run("simulate", "-f", "rollout.yaml", "--runs", "2", "--transcript") == 0
    told = capsys.readouterr().out
    assert "2 runs over 8 devices, " in told
    assert "as assumed: 2 completed" in told
    assert "phase 2 of 2 begins: 6 devices to offer to" in told
    Path("labelled.yaml").write_text(
        FILE.replace("soak_s: 1}", "soak_s: 3600}", 1)
        + "gates: {label_errors: {margin: 0.05, error_rate_max: 0.5}}\n"
    )
    made_up = ("--devices", "40", "-a", "labels-per-h=60", "-a", "harm=0.3")
    assert run("simulate", "-f", "labelled.yaml", *made_up, "--output", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["members"] == 40
    assert document["harmful"]["stopped"] == 1.0
    assert run("simulate", "-f", "labelled.yaml", *made_up, "--runs", "2") == 0
    assert "a candidate with 30.0 points more errors: 2 rolled back" in capsys.readouterr().out
    assert service.rollouts.all() == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-a", "failed"), "no assumption"),
        (("-a", "fialed=1"), "fialed"),
        (("-a", "failed=2"), "failed"),
        (("--devices", "30000", "--runs", "10"), "too many to simulate"),
    ],
)
@pytest.mark.usefixtures("service")
def test_an_assumption_that_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    """What is assumed is checked by name and range, and so is the work that it makes."""
    assert run("simulate", "-f", "rollout.yaml", *arguments) == 2
    assert said in capsys.readouterr().err
