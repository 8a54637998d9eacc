"""What a machine used, from what its platform tells; what it does not tell is no zero."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.energy import GAP_S_MAX, EnergyMeter, Reading, Spent, between, read


def _files(folder: Path, **texts: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n")


def _counters(*joules: float, wraps: float = 0.0, is_falling: bool = False) -> Reading:
    parts = tuple((f"part {place}", each, wraps) for place, each in enumerate(joules))
    return Reading(parts, is_falling=is_falling)


def test_packages_are_read_before_batteries(tmp_path: Path) -> None:
    """RAPL's packages count, its parts within them do not; a whole platform holds its packages."""
    caps, supplies = tmp_path / "powercap", tmp_path / "supplies"
    _files(supplies / "BAT0", type="Battery", status="Discharging", energy_now=1)
    for name, said, at in (("0", "package-0", 5_000_000), ("0:0", "core", 4_000_000)):
        _files(caps / f"intel-rapl:{name}", name=said, energy_uj=at, max_energy_range_uj=9_000_000)
    assert read(caps, supplies) == Reading((("intel-rapl:0", 5.0, 9.0),))
    _files(caps / "intel-rapl:1", name="psys", energy_uj=7_000_000)
    assert read(caps, supplies) == Reading((("intel-rapl:1", 7.0, 0.0),))


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        ({"energy_now": 2_000_000}, Reading((("BAT0", 7_200.0, 0.0),), is_falling=True)),
        ({"power_now": 3_500_000}, Reading(watts=3.5)),
        ({"energy_now": 2_000_000, "status": "Charging"}, None),
        ({"energy_now": 2_000_000, "scope": "Device"}, None),
        ({"capacity": 50}, None),
    ],
)
def test_only_a_battery_that_discharges_tells(
    tmp_path: Path, battery: dict[str, object], expected: Reading | None
) -> None:
    """One that is charged, or a mouse's, says nothing of what the machine uses."""
    _files(tmp_path / "BAT0", **{"type": "Battery", "status": "Discharging"} | battery)
    assert read(tmp_path / "none", tmp_path) == expected


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (_counters(5.0, 1.0), _counters(9.0, 2.0), Spent(5.0, 60.0)),
        (_counters(8.0, wraps=9.0), _counters(2.0, wraps=9.0), Spent(3.0, 60.0)),
        (_counters(8.0), _counters(2.0), Spent()),
        (_counters(8.0, is_falling=True), _counters(2.0, is_falling=True), Spent(6.0, 60.0)),
        (_counters(2.0, is_falling=True), _counters(8.0, is_falling=True), Spent()),
        (_counters(1.0), _counters(1.0, 2.0), Spent()),
        (Reading(watts=2.0), Reading(watts=4.0), Spent(180.0, 60.0)),
        (Reading(watts=2.0), _counters(2.0), Spent()),
        (None, _counters(2.0), Spent()),
        (_counters(2.0), None, Spent()),
    ],
)
def test_what_was_used_between_two_readings(
    before: Reading | None, now: Reading | None, expected: Spent
) -> None:
    """Counters rise and may wrap, what is left falls; what does not fit tells nothing."""
    assert between(before, now, 60.0) == expected
    assert between(before, now, GAP_S_MAX + 1) == Spent()
    assert between(before, now, 0.0) == Spent()


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e3)), max_size=20))
def test_only_told_seconds_count(steps: list[float | None]) -> None:
    """Each minute between two readings counts with what it used; other minutes do not."""
    at, readings = 0.0, []
    for step in steps:
        at += step or 0.0
        readings.append(None if step is None else _counters(at))
    looks, times = iter(readings), iter(range(0, 60 * len(steps), 60))
    meter = EnergyMeter(lambda: next(looks), lambda: float(next(times)))
    for _ in steps:
        meter.look()
    told = [b for a, b in pairwise(steps) if None not in {a, b}]
    if not told:
        assert meter.spent is None
    else:
        assert meter.spent is not None
        assert meter.spent.seconds == 60.0 * len(told)
        assert meter.spent.joules == pytest.approx(sum(each or 0.0 for each in told), abs=1e-6)
