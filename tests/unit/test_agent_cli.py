"""The command: one clear line for every error, the right exit status, never a traceback."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agent import cli, metering
from agent.store.usage import Purpose, Usage
from firmware_bundles import errors


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command; argparse ends with SystemExit."""
    try:
        status = cli.main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.mark.parametrize("verb", [[], ["enrol"], ["run"], ["status"], ["doctor"]])
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    """And the command's own shows examples and exit statuses."""
    status, out, _ = called(capsys, *verb, "--help")
    assert status == cli.DONE
    assert "usage: shoal-agent" in out
    assert verb or ("examples:" in out and "exit status:" in out)


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["enrol"], ["run", "--set", "report_s"], ["status", "--output", "x"]]
)
def test_a_wrong_call_is_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    """Status 2 and a word about what was expected."""
    status, _, err = called(capsys, "--state-dir", str(tmp_path), *arguments)
    assert status == cli.USAGE
    assert "error:" in err
    assert "Traceback" not in err


def test_run_without_identity_says_how_to_enrol(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line, and a hint on the next."""
    status, _, err = called(capsys, "--state-dir", str(tmp_path), "run")
    assert status == cli.FAILED
    assert err.splitlines()[0].startswith("error: ")
    assert "(device.not_enrolled)" in err
    assert "shoal-agent enrol" in err.splitlines()[1]


def test_an_unknown_setting_is_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With a suggestion."""
    status, _, err = called(capsys, "--state-dir", str(tmp_path), "doctor", "--set", "reports=1")
    assert status == cli.USAGE
    assert "report_s" in err


def test_status_of_an_empty_device_is_json_and_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With core and worker down it still answers."""
    status, out, _ = called(capsys, "--state-dir", str(tmp_path), "status", "--output", "json")
    facts = json.loads(out)
    assert status == cli.FAILED
    assert facts["device"] is None
    assert facts["is_worker_answering"] is False
    assert {each["code"] for each in facts["faults"]} >= {"device.not_enrolled"}


def test_doctor_prints_every_setting_and_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Each with its origin; each finding with an action unless it is ok."""
    status, out, _ = called(capsys, "--state-dir", str(tmp_path), "doctor", "--set", "report_s=5")
    assert status in {cli.DONE, cli.FAILED}  # by what is installed here
    assert "setting  report_s = 5.0 (flag)" in out
    assert "setting  keepalive_s = 30 (default)" in out
    assert "warning  enrolled:" in out
    assert "-> Run 'shoal-agent enrol" in out


def test_enrol_refuses_plain_http_and_a_missing_ca(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is sent."""
    base = ["--state-dir", str(tmp_path), "enrol", "--token", "t", "--ca", str(tmp_path / "no.pem")]
    status, _, err = called(capsys, *base, "--server", "http://127.0.0.1:1")
    assert (status, "https://" in err) == (cli.USAGE, True)
    status, _, err = called(capsys, *base, "--server", "https://127.0.0.1:1")
    assert (status, "no.pem" in err) == (cli.USAGE, True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.SignatureInvalid("x"), cli.REFUSED),
        (errors.ServerUnreachable("x"), cli.LATER),
        (errors.EnrolmentRefused("x"), cli.UNAUTHORISED),
        (errors.ConfigInvalid("x"), cli.USAGE),
        (errors.SlotBroken("x"), cli.FAILED),
    ],
)
def test_the_exit_status_tells_the_kind_of_refusal(error: errors.ShoalError, status: int) -> None:
    """As both commands document it."""
    assert cli.exit_status(error) == status


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A device that received 700 of its 1,000 bytes today, and some the day before."""
    today, before = (
        time.strftime("%Y-%m-%d", time.localtime(time.time() - days * 86_400)) for days in (0, 1)
    )
    accounts = Usage.open(tmp_path / metering.NAME)
    accounts.count(today, "eth0", Purpose.MODEL, received=700, written=650)
    accounts.count(today, "wwan0", Purpose.TELEMETRY, sent=31)
    accounts.count(before, "eth0", Purpose.CONTROL, received=5, sent=6)
    accounts.close()
    return tmp_path


_BUDGETS = ("--set", "model_bytes_per_day_max=1000", "--set", "metered_bytes_per_day_max=9")


def test_usage_is_a_table_with_what_is_left_of_the_budgets(
    capsys: pytest.CaptureFixture[str], used: Path
) -> None:
    """A line for each day, link and purpose, the newest days only."""
    status, out, _ = called(capsys, "--state-dir", str(used), "usage", *_BUDGETS)
    assert status == cli.DONE
    head, *rows = (line.split() for line in out.splitlines())
    assert head == ["day", "link", "purpose", "received", "sent", "written"]
    assert [row[1:] for row in rows if row[1:3] == ["eth0", "model"]] == [
        ["eth0", "model", "700", "0", "650"]
    ]
    assert ["wwan0", "telemetry", "0", "31", "0"] in [row[1:] for row in rows]
    assert ["eth0", "control", "5", "6", "0"] in [row[1:] for row in rows]
    assert "today 700 of 1000 bytes received for models, 300 left" in out
    assert "at most 9 bytes a day for models on metered links" in out
    _, out, _ = called(capsys, "--state-dir", str(used), "usage", "--days", "1")
    assert "control" not in out


def test_usage_is_json_for_scripts(capsys: pytest.CaptureFixture[str], used: Path) -> None:
    """The same facts."""
    arguments = ("--state-dir", str(used), "usage", *_BUDGETS, "--output", "json")
    status, out, _ = called(capsys, *arguments)
    facts = json.loads(out)
    assert status == cli.DONE
    assert facts["conditions"]["model_bytes_per_day_max"] == 1000
    assert facts["waiting"] == []
    assert {
        "day": facts["today"],
        "link": "eth0",
        "purpose": "model",
        "received": 700,
        "sent": 0,
        "written": 650,
    } in facts["rows"]


def test_usage_of_a_device_that_used_nothing_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And a count of days that is none is refused."""
    assert "nothing was counted yet" in called(capsys, "--state-dir", str(tmp_path), "usage")[1]
    status, _, err = called(capsys, "--state-dir", str(tmp_path), "usage", "--days", "0")
    assert (status, "--days" in err) == (cli.USAGE, True)
