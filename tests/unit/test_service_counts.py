"""Counts of failures and deaths that begin anew, on the device and in the control plane."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from agent.inference.control import FamilyStatus
from agent.reports import Meanwhile, family_report
from agent.since_serving import SinceServing
from control_plane.fleet.service import COUNT_MAX, Said, Served, between
from firmware_bundles.wire.messages import Energy

FIRST = Said(model="a", since=1.0, answered=10, failed=2, deaths=1, received=100.0)

METERED = FIRST._replace(joules=100, measured_s=60)


@pytest.mark.parametrize(
    ("before", "changes", "expected"),
    [
        (None, {}, Served(10, 2, 0.0, 0)),
        (FIRST, {"answered": 15, "failed": 3, "received": 160.0}, Served(5, 1, 60.0, 0)),
        (FIRST, {"since": 2.0, "answered": 4, "failed": 1, "deaths": 3}, Served(4, 1, 0.0, 2)),
        (FIRST, {"model": "b", "since": 3.0, "answered": 6}, Served(6, 2, 0.0, 0)),
        (FIRST, {"deaths": 0, "received": 160.0}, Served(0, 0, 60.0, 0)),
        (FIRST, {"failed": None, "deaths": None, "received": 160.0}, Served()),
        (FIRST._replace(failed=None, deaths=None), {"received": 160.0}, Served()),
        (FIRST, {"joules": 90, "measured_s": 30}, Served()),
        (METERED, {"joules": 250, "measured_s": 160}, Served(joules=150, measured_s=100)),
        (METERED, {"joules": 20, "measured_s": 5}, Served(joules=20, measured_s=5)),
        (METERED, {"joules": None, "measured_s": None}, Served()),
        (METERED, {"model": "b"}, Served(10, 2)),
        (FIRST, {"answered": 2**52, "failed": 2**52}, Served(COUNT_MAX, COUNT_MAX, 0.0, 0)),
    ],
)
def test_what_happened_between_two_reports(
    before: Said | None, changes: dict[str, object], expected: Served
) -> None:
    """Counts begin anew with the model, its load or the agent; what is not told is nothing."""
    base = METERED if before is METERED else FIRST
    assert between(before, base._replace(**changes)) == expected  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_every_request_is_counted_once(steps: list[tuple[bool, int, int]]) -> None:
    """Whatever restarts lie between reports, the parts add up to what was told."""
    said: Said | None = None
    served, told = (0, 0), (0, 0)
    for turn, (is_restarted, answered, failed) in enumerate(steps):
        is_new = said is None or is_restarted
        base = (0, 0) if is_new or said is None else (said.answered, said.failed or 0)
        since = float(turn) if is_new or said is None else said.since
        now = Said("a", since, base[0] + answered, base[1] + failed, 0, float(turn))
        found = between(said, now)
        served = served[0] + found.answered, served[1] + found.failed
        told = told[0] + answered, told[1] + failed
        said = now
    assert served == told


def test_deaths_count_since_a_model_was_told_of() -> None:
    """Deaths before it are another model's; a model that comes back begins at zero."""
    deaths = SinceServing()
    steps = [("a", 4, 0), ("a", 6, 2), ("b", 7, 0), ("b", 8, 1), ("a", 9, 0)]
    assert [deaths.of("x", model, count) for model, count, _ in steps] == [e for *_, e in steps]
    assert deaths.of("y", "a", 9) == 0


def test_a_report_tells_failures_deaths_and_energy() -> None:
    """They are those of the model that answers."""
    status = FamilyStatus(digest="0" * 64, version="2", answered=7, errors=3, ready=True)
    serving = family_report("x", None, status, Meanwhile(2, Energy(joules=90, seconds=30))).serving
    assert serving is not None
    assert (serving.answered, serving.failed, serving.deaths) == (7, 3, 2)
    assert serving.energy == Energy(joules=90, seconds=30)
    untold = family_report("x", None, status, Meanwhile(2)).serving
    assert untold is not None
    assert untold.energy is UNSET
