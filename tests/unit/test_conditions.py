"""When an update may use a device: the rules, and where the facts come from."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import sensors
from agent.clock import Clock
from agent.deployment import conditions
from agent.deployment.conditions import Facts, judge
from agent.metering import Meter, open_usage, purpose
from agent.store import usage
from agent.store.usage import Purpose, Row, Usage
from firmware_bundles.windows import covers_at, parse_window
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import Conditions

NOW = Facts(
    weekday=0,
    minute=12 * 60,
    is_time_known=True,
    link="eth0",
    is_metered=False,
    received_bytes=600,
    received_metered_bytes=100,
    written_bytes=0,
)


def waits(limits: Conditions, facts: Facts = NOW, wanted: int = 1000) -> str:
    """What the update waits for, in one line."""
    return "; ".join(judge([Conditions(), limits], facts, wanted).waits_for)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-05:00", [(0, 22 * 60), (0, 299), (6, 1439)], [(0, 300), (0, 1319)]),
        ("sat,sun 22:00-05:00", [(5, 1320), (6, 0), (0, 299)], [(5, 0), (0, 1320), (5, 1319)]),
        ("mon 08:00-09:30", [(0, 480), (0, 569)], [(0, 570), (1, 480)]),
        ("wed 00:00-00:00", [(2, 0), (2, 1439)], [(3, 0), (1, 1439)]),
    ],
)
def test_a_window_is_open_in_local_time(
    text: str, inside: list[tuple[int, int]], outside: list[tuple[int, int]]
) -> None:
    """Its end is outside; one over midnight belongs to the day on which it begins."""
    window = parse_window(text)
    assert all(window.covers(*moment) for moment in inside)
    assert not any(window.covers(*moment) for moment in outside)


@given(st.datetimes(dt.datetime(2001, 1, 1), dt.datetime(2040, 1, 1)), st.integers(-720, 840))  # noqa: DTZ001
def test_a_window_is_known_from_the_offset_of_local_time(
    local: dt.datetime, offset_minutes: int
) -> None:
    """Who knows how far a device is ahead of UTC finds the same as the device itself."""
    window = parse_window("sat,sun 22:00-05:00")
    zone = dt.timezone(dt.timedelta(minutes=offset_minutes))
    now = local.replace(tzinfo=zone).timestamp()
    inside = window.covers(local.weekday(), local.hour * 60 + local.minute)
    assert covers_at(window, now, offset_minutes) == inside


@given(st.integers(0, 1439), st.integers(0, 1439))
def test_a_window_and_its_complement_share_no_minute(start: int, end: int) -> None:
    """Each minute of the week is in exactly one of them."""
    if start == end:
        return
    one, other = (
        parse_window(f"{a // 60:02}:{a % 60:02}-{b // 60:02}:{b % 60:02}")
        for a, b in ((start, end), (end, start))
    )
    for minute in range(0, 1440, 7):
        assert one.covers(3, minute) != other.covers(3, minute)


def test_an_update_waits_for_its_window_and_says_so() -> None:
    """Unless it is urgent; and a clock that is not to be trusted opens no window."""
    limits = Conditions(window="22:00-05:00")
    assert waits(limits) == "the maintenance window 22:00-05:00"
    assert judge([limits], NOW, 10, is_urgent=True).waits_for == ()
    night = NOW._replace(minute=23 * 60)
    assert waits(limits, night) == ""
    assert "clock" in waits(limits, night._replace(is_time_known=False))


@pytest.mark.parametrize(
    ("limits", "bad", "good"),
    [
        (
            Conditions(battery_percent_min=50),
            {"battery_percent": 49.0},
            {"battery_percent": 50.0},
        ),
        (
            Conditions(battery_percent_min=50),
            {"battery_percent": 5.0, "is_on_mains": False},
            {"battery_percent": 5.0, "is_on_mains": True},
        ),
        (Conditions(is_mains_needed=True), {"is_on_mains": False}, {"is_on_mains": True}),
        (Conditions(temperature_c_max=70), {"temperature_c": 70.5}, {"temperature_c": 70.0}),
    ],
)
def test_power_and_heat_hold_an_update_up(
    limits: Conditions, bad: dict[str, float], good: dict[str, float]
) -> None:
    """Where the platform tells nothing, nothing is held up."""
    assert waits(limits, NOW._replace(**bad))  # type: ignore[arg-type]
    assert not waits(limits, NOW._replace(**good))  # type: ignore[arg-type]
    assert not waits(limits)


def test_the_tightest_budget_counts() -> None:
    """Of the device's and the rollout's; a metered one only on such a link."""
    own = Conditions(model_bytes_per_day_max=1000, metered_bytes_per_day_max=150)
    ordered = Conditions(model_bytes_per_day_max=900, written_bytes_per_day_max=5000)
    assert judge([own, ordered], NOW, 1000).bytes_max == 300
    on_wwan = NOW._replace(is_metered=True, link="wwan0")
    assert judge([own, ordered], on_wwan, 1000).bytes_max == 50
    assert judge([Conditions()], NOW, 1000).bytes_max is None


def test_a_budget_that_is_used_up_waits_and_says_how_much_is_lacking() -> None:
    """Nothing is lacking: the budget does not matter."""
    limits = Conditions(model_bytes_per_day_max=600)
    assert waits(limits) == "today's budget of 600 bytes is used up: 1000 bytes are lacking"
    assert waits(limits, wanted=0) == ""


def test_all_reasons_are_told_each_once() -> None:
    """A person mends them together."""
    limits = Conditions(window="01:00-02:00", is_mains_needed=True)
    facts = NOW._replace(is_on_mains=False)
    assert judge([limits, limits], facts, 1).waits_for == (
        "the maintenance window 01:00-02:00",
        "mains power",
    )


@pytest.mark.parametrize("text", ["25:00-01:00", "1:00-2:00", "foo 01:00-02:00", "01:00", "mon"])
def test_a_window_of_another_form_is_not_read(text: str) -> None:
    """Its form is part of the message."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"window": text}, Conditions)


def supply(root: Path, name: str, **facts: str) -> None:
    """A power supply as sysfs shows it."""
    (root / name).mkdir(parents=True)
    for key, value in facts.items():
        (root / name / key).write_text(value + "\n")


def test_power_is_read_from_sysfs(tmp_path: Path) -> None:
    """The lowest battery of the machine itself; a mouse's does not count."""
    assert sensors.power(tmp_path / "none") == (None, None)
    supply(tmp_path, "BAT0", type="Battery", capacity="41")
    supply(tmp_path, "BAT1", type="Battery", capacity="rubbish")
    supply(tmp_path, "hidpp", type="Battery", capacity="3", scope="Device")
    assert sensors.power(tmp_path) == (41.0, False)
    supply(tmp_path, "AC", type="Mains", online="1")
    assert sensors.power(tmp_path) == (41.0, True)


def test_the_hottest_zone_counts(tmp_path: Path) -> None:
    """In degrees, of thousandths."""
    assert sensors.temperature_c(tmp_path) is None
    for name, value in (("thermal_zone0", "41000"), ("thermal_zone1", "68500"), ("cooling", "9")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "temp").write_text(value)
    assert sensors.temperature_c(tmp_path) == 68.5


def test_the_link_is_that_of_the_default_route(tmp_path: Path) -> None:
    """The one with the lowest metric; a table that cannot be read has none."""
    routes = tmp_path / "route"
    head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n"
    routes.write_text(
        head
        + "wwan0 00000000 0100A8C0 0003 0 0 700 00000000 0 0 0\n"
        + "eth0 00000000 0100A8C0 0003 0 0 100 00000000 0 0 0\n"
        + "eth0 0000A8C0 00000000 0001 0 0 100 00FFFFFF 0 0 0\n"
        + "broken line\n"
    )
    assert sensors.link(routes) == "eth0"
    assert sensors.link(tmp_path / "none") == "none"
    assert sensors.is_metered("wwan0", ["wwan*"])
    assert not sensors.is_metered("eth0", ["wwan*", "ppp*"])


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        (topics.chunk("0" * 64), Purpose.MODEL),
        (topics.down("d1", topics.Down.CHUNK), Purpose.MODEL),
        (topics.REPOSITORY_HINT, Purpose.METADATA),
        (topics.repository_file("1.root.json"), Purpose.METADATA),
        (topics.up("d1", topics.Up.TELEMETRY), Purpose.TELEMETRY),
        (topics.down("d1", topics.Down.ACKNOWLEDGEMENT), Purpose.TELEMETRY),
        (topics.up("d1", topics.Up.HELLO), Purpose.CONTROL),
        ("something/else", Purpose.CONTROL),
        ("", Purpose.CONTROL),
    ],
)
def test_bytes_are_accounted_by_purpose(topic: str, expected: Purpose) -> None:
    """Every topic has one."""
    assert purpose(topic) is expected


def test_the_accounts_survive_and_add_up(tmp_path: Path) -> None:
    """By day, link and purpose; what is not written yet counts, too."""
    path = tmp_path / "usage.db"
    for _ in range(2):
        accounts = Usage.open(path)
        accounts.count("2026-11-21", "eth0", Purpose.MODEL, received=100, written=70)
        accounts.count("2026-11-21", "eth0", Purpose.CONTROL, sent=5)
        accounts.close()
    accounts = Usage.open(path)
    accounts.count("2026-11-21", "eth0", Purpose.MODEL, received=1)
    day = {"day": "2026-11-21", "link": "eth0"}
    expected = {
        Row(**day, purpose=Purpose.MODEL, received=201, written=140),  # type: ignore[arg-type]
        Row(**day, purpose=Purpose.CONTROL, sent=10),  # type: ignore[arg-type]
    }
    assert set(accounts.rows(7)) == expected
    accounts.close()
    assert set(usage.read(path, 7)) == expected


def test_old_days_are_forgotten(tmp_path: Path) -> None:
    """The newest 400 stay."""
    accounts = Usage.open(tmp_path / "usage.db")
    accounts.count("2024-01-01", "eth0", Purpose.MODEL, received=1)
    accounts.count("2026-01-01", "eth0", Purpose.MODEL, received=1)
    accounts.flush()
    assert [row.day for row in accounts.rows(10)] == ["2026-01-01"]
    accounts.close()


def test_damaged_accounts_are_set_aside(tmp_path: Path) -> None:
    """And no disk at all leaves them in memory."""
    path = tmp_path / "usage.db"
    path.write_bytes(b"no database at all, however long it may be" * 100)
    accounts = open_usage(path)
    accounts.count("2026-01-01", "eth0", Purpose.MODEL, received=1)
    accounts.close()
    assert len(list(tmp_path.glob("usage.db.damaged-*"))) == 1
    homeless = open_usage(tmp_path / "no" / "such" / "folder" / "usage.db")
    homeless.count("2026-01-01", "eth0", Purpose.MODEL, received=1)
    homeless.flush()
    assert len(homeless.rows(1)) == 1
    homeless.close()


def test_the_meter_tells_what_models_cost_today() -> None:
    """By link: what came over a metered one is told apart."""
    links = iter(["wwan0", "eth0"])
    accounts = open_usage(Path("/nowhere/usage.db"))
    meter = Meter(
        accounts,
        Clock(),
        ["wwan*"],
        link=lambda: next(links, "eth0"),
        power=lambda: sensors.Power(80.0, True),
        temperature_c=lambda: 40.0,
    )
    meter.received(topics.chunk("0" * 64), bytes(1000))
    meter.received(topics.REPOSITORY_HINT, bytes(1000))
    meter.wrote(500)
    facts = meter.facts()
    assert (
        facts.received_bytes == facts.received_metered_bytes == 1000 + len(topics.chunk("0" * 64))
    )
    assert facts.written_bytes == 500
    assert (facts.link, facts.is_metered) == ("wwan0", True)
    assert (facts.battery_percent, facts.is_on_mains, facts.temperature_c) == (80.0, True, 40.0)
    assert conditions.judge([Conditions(model_bytes_per_day_max=1)], facts, 1).waits_for
    accounts.close()
