"""The frame of the benchmarks: what holds, what is printed where, and the exit status."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from support.benchmark import Limit, Report, main, to_json, to_table


def _limit(value: float, bound: str = "<=") -> Limit:
    return Limit(
        what="seconds of the job",
        value=value,
        unit="s",
        limit=90.0,
        bound=">=" if bound == ">=" else "<=",
    )


@pytest.mark.parametrize(
    ("value", "bound", "holds"),
    [
        (90.0, "<=", True),
        (90.1, "<=", False),
        (90.0, ">=", True),
        (89.9, ">=", False),
        (math.nan, "<=", False),
        (math.nan, ">=", False),
    ],
)
def test_a_limit_holds_up_to_and_including_its_bound(
    value: float, bound: str, *, holds: bool
) -> None:
    """The bound itself is kept; what is not a number keeps nothing."""
    assert _limit(value, bound).holds is holds


def test_the_json_has_the_promised_shape() -> None:
    """Other programs read name, limits with their five members, and figures."""
    report = Report(limits=[_limit(61.5)], figures={"peer, s": 70.0})
    assert json.loads(to_json("demo", report)) == {
        "name": "demo",
        "limits": [
            {"what": "seconds of the job", "value": 61.5, "unit": "s", "limit": 90.0, "holds": True}
        ],
        "figures": {"peer, s": 70.0},
    }


def test_the_table_marks_a_broken_limit() -> None:
    """A person sees at once which limit is broken, and by how much."""
    table = to_table("demo", Report(limits=[_limit(91.0)], figures={"devices": 8}))
    assert "BROKEN" in table
    assert "(<= 90)" in table
    assert "devices" in table


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (91.0, 1)])
def test_the_status_is_zero_only_if_every_limit_holds(
    value: float, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken limit fails the run."""
    assert main("demo", lambda: Report(limits=[_limit(1.0), _limit(value)]), []) == status
    assert capsys.readouterr().out.startswith("demo\n")


def test_with_json_only_the_object_reaches_standard_output() -> None:
    """What the measured code or its children print goes to standard error."""
    program = (
        "import os, sys\n"
        "from support.benchmark import Report, main\n"
        "def measure():\n"
        "    print('noise')\n"
        "    os.system('echo noise of a child')\n"
        "    return Report(figures={'n': 1})\n"
        "sys.exit(main('noisy', measure, ['--json']))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{program}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(run.stdout) == {"name": "noisy", "limits": [], "figures": {"n": 1}}
    assert run.stderr.count("noise") == 2
