"""`shoal diff` and `shoal apply`: what is declared, against a running API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.api.auth import Role
from control_plane.cli import main as command
from support.http_server import serving
from support.rollout_service import RolloutService

COHORT = "name: odd\nselector: fact/site=odd\n"
LISTED = "name: lab\ndevices: [device-001, device-002]\n"
ROLLOUT = """\
id: second
family: digits
release: "2"
cohort: lab
phases:
  - share: 1.0
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RolloutService]:
    """A running control plane that the environment points to, and a folder of files."""
    made = RolloutService(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_TOKEN", made.token(Role.OPERATOR))
    declare("cohorts/odd.yaml", COHORT)
    declare("cohorts/lab.yml", LISTED)
    declare("rollouts/second.yaml", ROLLOUT)
    with serving(made.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield made
    made.fleet.database.close()


def declare(name: str, text: str) -> None:
    """Write a file of the folder."""
    path = Path("fleet") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "-f", "fleet"])
    return int(ended.value.code or 0)


def test_a_diff_tells_and_changes_nothing(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 10 says that there are changes; so does a dry run, and both leave all as it is."""
    expected = [
        "+ cohort lab: a list of 2",
        "+ cohort odd: selector 'fact/site=odd'",
        "+ rollout second: digits/2 to lab; checked when its cohort is there",
    ]
    assert run("diff") == 10
    assert capsys.readouterr().out.splitlines() == expected
    assert run("apply", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == expected
    assert [each.name for each in service.cohorts.all()] == ["all", "nobody"]
    assert service.rollouts.all() == []


def test_applying_twice_is_applying_once(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """All is there afterwards, cohorts before the rollouts that need them; then nothing changes."""
    assert run("apply") == 0
    assert service.cohorts.members("lab") == ["device-001", "device-002"]
    first = service.rollouts.get("second")
    capsys.readouterr()
    assert run("diff", "--output", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["name"]: each["change"] for each in found} == dict.fromkeys(
        ["lab", "odd", "second"], "unchanged"
    )
    assert run("apply") == 0
    assert service.rollouts.all() == [first]


def test_a_cohort_follows_its_file(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed file changes the cohort, and only that."""
    assert run("apply") == 0
    declare("cohorts/odd.yaml", "name: odd\nselector: ''\n")
    capsys.readouterr()
    assert run("diff") == 10
    assert "~ cohort odd: selector 'fact/site=odd' -> selector ''" in capsys.readouterr().out
    assert run("apply") == 0
    assert service.cohorts.get("odd").devices == 8


def test_a_started_rollout_is_not_changed(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refusal names the file and what differs; nothing else of the folder is applied either."""
    assert run("apply") == 0
    declare("rollouts/second.yaml", ROLLOUT.replace("cohort: lab", "cohort: odd"))
    declare("cohorts/more.yaml", "name: more\nselector: a=b\n")
    assert run("apply") == 2
    told = capsys.readouterr().err
    assert "fleet/rollouts/second.yaml: rollout second was started with another cohort" in told
    assert "more" not in [each.name for each in service.cohorts.all()]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("cohorts/odd.yaml", "name: odd\nselecter: a=b\n",
         "fleet/cohorts/odd.yaml: line 2: selecter: there is no such field"),
        ("cohorts/odd.yaml", "name: odd\nselector: 'a='b'\n", "fleet/cohorts/odd.yaml: line 2"),
        ("cohorts/odd.yaml", "name: odd\nselector: a==,,\n", "column 5"),
        ("cohorts/odd.yaml", "name: odd\n", "odd.yaml: give either selector or devices"),
        ("cohorts/odd.yaml", "name: lab\nselector: ''\n", "odd.yaml: lab is declared twice"),
        ("rollouts/second.yaml", ROLLOUT.replace("share: 1.0", "share: 2"),
         "second.yaml: line 6: phases[0].share: expected float <= 1.0"),
        ("rollouts/second.yaml", ROLLOUT.replace("id: second\n", ""), "second.yaml: id is missing"),
        ("rollouts/second.yaml", ROLLOUT.replace("cohort: lab", "cohort: missing"),
         "second.yaml: there is no cohort 'missing'"),
        ("else.yaml", "a: b\n", "neither below cohorts/ nor below rollouts/"),
        ("cohorts/huge.yaml", "#" * 70_000, "huge.yaml: the file has more than 65536 bytes"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_line_and_field(
    service: RolloutService,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    told: str,
) -> None:
    """It ends with 2 before anything is changed."""
    declare(name, text)
    for verb in ("diff", "apply"):
        assert run(verb) == 2
        assert told in capsys.readouterr().err
    assert [each.name for each in service.cohorts.all()] == ["all", "nobody"]


def test_what_is_no_folder_is_refused(service: RolloutService) -> None:
    """A name that was mistyped is not taken for a folder that declares nothing."""
    Path("fleet").rename("other")
    assert run("diff") == 2


def gone(name: str) -> None:
    """Remove a file of the folder."""
    (Path("fleet") / name).unlink()


def names(service: RolloutService) -> set[str]:
    """Return the cohorts there are."""
    return {each.name for each in service.cohorts.all()}


def test_nothing_is_removed_unless_it_is_asked_for(service: RolloutService) -> None:
    """A file that is gone changes nothing by itself."""
    assert run("apply") == 0
    gone("cohorts/odd.yaml")
    assert run("diff") == 0
    assert run("apply") == 0
    assert "odd" in names(service)


def test_pruning_removes_what_the_set_made(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """`diff` tells before; what somebody made by hand, or another set, stays."""
    assert run("apply", "--set", "ours") == 0
    gone("cohorts/odd.yaml")
    capsys.readouterr()
    assert run("diff", "--prune") == 0
    assert run("diff", "--prune", "--set", "ours") == 10
    assert "- cohort odd: not declared any more" in capsys.readouterr().out
    assert "odd" in names(service)
    assert run("apply", "--prune", "--set", "ours") == 0
    assert names(service) == {"all", "nobody", "lab"}
    assert run("diff", "--prune", "--set", "ours") == 0


def test_a_draft_is_aborted_and_its_cohort_deleted(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollout that waits for its first approval was offered to nobody."""
    declare("rollouts/second.yaml", ROLLOUT.replace("share: 1.0", "share: 1.0\n    approval: true"))
    assert run("apply") == 0
    service.step()
    assert service.rollouts.get("second").standing.phase_state == "awaiting"
    gone("rollouts/second.yaml")
    gone("cohorts/lab.yml")
    capsys.readouterr()
    assert run("apply", "--prune") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line[0] != "="] == [
        "- rollout second: aborted before any offer",
        "- cohort lab: not declared any more",
    ]
    assert service.rollouts.get("second").standing.state == "cancelled"
    assert "lab" not in names(service)


def test_a_rollout_that_runs_goes_on_without_its_file(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is told, with its cohort, and is no change; only --yes aborts it."""
    assert run("apply") == 0
    service.step()
    service.step()
    gone("rollouts/second.yaml")
    gone("cohorts/lab.yml")
    capsys.readouterr()
    assert run("diff", "--prune") == 0
    rollout, cohort = (line for line in capsys.readouterr().out.splitlines() if line[0] == "!")
    assert rollout.startswith("! rollout second: not declared any more, but running: --yes aborts")
    assert cohort == "! cohort lab: not declared any more, but the rollout second goes by it"
    assert run("apply", "--prune") == 0
    assert service.rollouts.get("second").is_open
    assert run("apply", "--prune", "--yes") == 0
    assert service.rollouts.get("second").standing.state == "cancelled"
    assert "lab" not in names(service)


def test_an_empty_folder_removes_nothing_by_accident(
    service: RolloutService, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is rather the wrong folder; who is sure says so."""
    declare("rollouts/second.yaml", ROLLOUT.replace("share: 1.0", "share: 1.0\n    approval: true"))
    assert run("apply") == 0
    for name in ("cohorts/odd.yaml", "cohorts/lab.yml", "rollouts/second.yaml"):
        gone(name)
    assert run("apply", "--prune") == 2
    assert "the folder declares nothing" in capsys.readouterr().err
    assert names(service) >= {"odd", "lab"}
    assert run("apply", "--prune", "--yes") == 0
    assert names(service) == {"all", "nobody"}


def test_what_is_made_by_hand_again_is_nobody_s(service: RolloutService) -> None:
    """A cohort that was deleted and made anew by a person does not belong to the files."""
    assert run("apply") == 0
    service.cohorts.delete("odd")
    service.cohorts.create("odd", "fact/site=odd")
    gone("cohorts/odd.yaml")
    assert run("apply", "--prune") == 0
    assert "odd" in names(service)


def test_what_ended_stays(service: RolloutService) -> None:
    """A completed rollout is history: its file may go."""
    assert run("apply") == 0
    for _ in range(6):
        service.step(4_000)
    assert service.rollouts.get("second").standing.state == "completed"
    gone("rollouts/second.yaml")
    assert run("diff", "--prune") == 0
    assert run("apply", "--prune") == 0
    assert service.rollouts.get("second").standing.state == "completed"
