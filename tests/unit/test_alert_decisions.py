"""Alerts: raised once, told again while nobody takes notice, over when it is quiet."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.alerts import destinations, events, signals
from control_plane.alerts.decision import (
    Action,
    Alert,
    Kind,
    Rules,
    Signal,
    State,
    acknowledge,
    decide,
)
from control_plane.alerts.signals import Count, Silence
from control_plane.telemetry.standing import Standing, WatchKey, WatchRow, latest
from firmware_bundles.errors import WebhookRefused
from firmware_bundles.sketches import watch
from firmware_bundles.sketches.baseline import ColumnKind
from firmware_bundles.sketches.watch import Finding

RULES = Rules(quiet_s=100, renotify_s=1_000)
CHANGE = Signal(Kind.CHANGE, "it changed", device_id="d")


def _run(seen: list[Signal | None], step_s: float = 10.0) -> list[tuple[State, Action | None]]:
    """Decide once every `step_s` on what is seen; returns each alert's state and what was told."""
    alert: Alert | None = None
    found = []
    for turn, signal in enumerate(seen):
        step = decide(alert, signal, turn * step_s, RULES)
        if step is not None:
            alert = step.alert._replace(number=1)
        if alert is not None:
            found.append((alert.state, step.action if step else None))
    return found


def test_a_matter_is_raised_once_and_resolved_once() -> None:
    """While it goes on nothing more is told; its end is told, and silence after that is silence."""
    found = _run([None, CHANGE, CHANGE, CHANGE, None, None])
    assert found == [
        (State.OPEN, Action.RAISED),
        (State.OPEN, None),
        (State.OPEN, None),
        (State.RESOLVED, Action.RESOLVED),
        (State.RESOLVED, None),
    ]


def test_what_comes_back_is_raised_anew() -> None:
    """A resolved alert stays as it is; its matter becomes another one."""
    told = [action for _, action in _run([CHANGE, None, CHANGE]) if action]
    assert told == [Action.RAISED, Action.RESOLVED, Action.RAISED]


def test_a_count_is_a_matter_while_it_moves() -> None:
    """Drops that happened once are told once; only quiet time ends them; more drops are seen."""
    dropped = [Signal(Kind.DROPPED, "d", device_id="d", level=level) for level in (0, 5, 5, 7)]
    found = _run([dropped[0], dropped[1], *[dropped[2]] * 9, dropped[3], *[dropped[3]] * 10])
    assert [action for _, action in found if action] == [Action.RAISED, Action.RESOLVED]
    assert found[-1][0] is State.RESOLVED
    assert len(found) == 21
    assert found[-2][0] is State.OPEN


def test_a_count_that_began_anew_is_new() -> None:
    """A buffer that was replaced counts from zero: two rows dropped in it are dropped rows."""
    before = _decided(Signal(Kind.DROPPED, "", device_id="d", level=5), 0.0)
    over = before._replace(state=State.RESOLVED)
    step = decide(over, Signal(Kind.DROPPED, "", device_id="d", level=2), 9.0, RULES)
    assert step is not None
    assert step.action is Action.RAISED


def _decided(signal: Signal, now: float) -> Alert:
    step = decide(None, signal, now, RULES)
    assert step is not None
    return step.alert._replace(number=1)


def test_nobody_is_reminded_of_what_somebody_acknowledged() -> None:
    """An open alert is told again after its time, an acknowledged one is not, also when open long.

    Its end is told all the same.
    """
    alert = _decided(CHANGE, 0.0)
    assert decide(alert, CHANGE, 999.0, RULES) is not None
    step = decide(alert, CHANGE, 1_000.0, RULES)
    assert step is not None
    assert (step.action, step.alert.reminders) == (Action.REMINDED, 1)
    taken = acknowledge(alert, "ann", "I look", 5.0)
    assert taken is not None
    assert (taken.action, taken.alert.acknowledged_by) == (Action.ACKNOWLEDGED, "ann")
    later = decide(taken.alert, CHANGE, 9_000.0, RULES)
    assert later is not None
    assert later.action is None
    over = decide(later.alert, None, 9_001.0, RULES)
    assert over is not None
    assert over.action is Action.RESOLVED
    assert acknowledge(over.alert, "ann", "", 9_002.0) is None
    assert acknowledge(taken.alert, "bob", "", 9_002.0) is None


@given(st.lists(st.sampled_from([None, CHANGE, CHANGE._replace(kind=Kind.SILENT)]), max_size=60))
def test_what_is_told_alternates(seen: list[Signal | None]) -> None:
    """Between two raisings stands a resolution, whatever is seen in between."""
    for kind in (Kind.CHANGE, Kind.SILENT):
        mine = [each if each is not None and each.kind is kind else None for each in seen]
        told = [action for _, action in _run(mine) if action is not Action.REMINDED]
        told = [action for action in told if action is not None]
        assert told == [Action.RAISED, Action.RESOLVED][:2] * (len(told) // 2) + (
            [Action.RAISED] if len(told) % 2 else []
        )


def _row(
    device: str, *findings: Finding, state: watch.State = watch.State.CHANGED, until: float = 9.0,
    model: str = "a" * 64, rings: int = 1,
) -> WatchRow:  # fmt: skip
    standing = Standing(state=state, since=5.0, until=until, rings=rings, findings=findings)
    return WatchRow(WatchKey(device, "digits", model), "2", standing)


def _finding(
    column: str, question: str = "shape", kind: ColumnKind = ColumnKind.FEATURE
) -> Finding:
    return Finding(column, kind, question, 1e6, 2)


def test_each_sort_of_change_is_a_matter_of_its_own_and_names_its_columns() -> None:
    """Inputs, predictions, missing values and values out of range are told apart."""
    row = _row(
        "d",
        _finding("x[1]"),
        _finding("x[2]"),
        _finding("seven", kind=ColumnKind.SCORE),
        _finding("x[3]", "missing"),
        _finding("x[4]", "out_of_range"),
    )
    found = {signal.kind: signal for signal in signals.of_devices([row])}
    assert set(found) == {
        Kind.CHANGE, Kind.PREDICTION_DRIFT, Kind.MISSING, Kind.OUT_OF_RANGE,
    }  # fmt: skip
    assert [each["column"] for each in found[Kind.CHANGE].details["findings"]] == ["x[1]", "x[2]"]
    assert "x[4]" in found[Kind.OUT_OF_RANGE].summary
    assert signals.of_devices([_row("d", state=watch.State.STABLE)]) == []


def test_only_the_model_that_sends_windows_now_is_looked_at() -> None:
    """What the model before it had seen is over with it."""
    rows = [_row("d", model="a" * 64, until=5), _row("d", model="b" * 64, until=8), _row("e")]
    assert {row.key.model[0] for row in latest(rows) if row.key.device_id == "d"} == {"b"}


def test_many_devices_of_a_cohort_are_the_cohorts_matter() -> None:
    """A share of those tested, three at least; devices in commissioning do not count."""
    changed = [_row(f"c{number}", _finding("x[1]")) for number in range(3)]
    stable = [_row(f"s{number}", state=watch.State.STABLE) for number in range(12)]
    young = [_row(f"y{number}", state=watch.State.COMMISSIONING) for number in range(90)]
    rows = [*changed, *stable, *young]
    everyone = [row.key.device_id for row in rows]
    members = {"all": everyone, "half": ["c0", "c1", "s0"], "none": []}
    (found,) = signals.of_cohorts(rows, members, signals.Rules())
    assert (found.cohort, found.details["changed"], found.details["tested"]) == ("all", 3, 15)
    assert found.details["columns"] == {"x[1]": 3}
    more = [_row(f"t{number}", state=watch.State.STABLE) for number in range(1)]
    members["all"] = [*everyone, "t0"]
    assert signals.of_cohorts([*rows, *more], members, signals.Rules()) == []


def test_silence_counts_from_when_somebody_listened() -> None:
    """Right after a start nobody can be silent yet."""
    rows = [Silence("d", 10.0)]
    assert signals.of_silence(rows, started=1_000.0, now=1_050.0, silent_s=100.0) == []
    (found,) = signals.of_silence(rows, started=1_000.0, now=1_100.0, silent_s=100.0)
    assert found.details == {"last_seen": 10.0}


def test_counts_of_other_codes_are_other_matters() -> None:
    """Two sorts of refused attempts at a device are two alerts."""
    rows = [Count(Kind.REFUSED, "d", 2, code, "why") for code in ("trust.a", "trust.b")]
    found = signals.of_counts(rows)
    assert len({signal.key for signal in found}) == 2
    assert found[0].summary == "device d reports 2 refused attempts: trust.a"


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/in?a=1",
        "http://127.0.0.1:9999/x",
        "http://[::1]:9999/",
        "http://localhost/",
        "http://inside.example:8080/x",
        "https://10.0.0.1/",
    ],
)
def test_addresses_that_events_may_go_to(url: str) -> None:
    """Https anywhere, http to this machine and to hosts that the configuration names."""
    assert destinations.check(url, destinations.hosts(" inside.example:8080, other ")) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "http://hooks.example/",
        "http://inside.example/",
        "http://127.0.0.1.example/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:10.0.0.1]/",
        "https://user:secret@hooks.example/",
        "https://hooks.example/#part",
        "https://hooks.example:99999/",
        "https://hooks.example/ x",
        "https://hooks.example/\n",
        "https://h\u00f6oks.example/",
        "https://[::1",
        "https:///nowhere",
        "https://" + "a" * 3_000,
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    """What the control plane could be made to call from inside, and what is no address."""
    with pytest.raises(WebhookRefused):
        destinations.check(url, destinations.hosts("inside.example:8080"))


def test_retries_grow_and_end() -> None:
    """From seconds to an hour, for some hours, and then never."""
    waits = [destinations.retry(attempts, 0.0).at for attempts in range(1, 13)]
    assert waits[:3] == [5.0, 10.0, 20.0]
    assert waits[-2] == 3_600.0
    assert waits[-1] is None
    assert sum(wait for wait in waits if wait) > 2 * 3_600


def test_an_event_has_the_attributes_of_cloudevents_and_a_stable_id() -> None:
    """The same step is the same event whenever it is made; another one is another."""
    alert = _decided(CHANGE, 12.5)
    event_id, body = events.of_alert(alert, Action.RAISED, 1_000.25)
    event = json.loads(body)
    assert event["specversion"] == "1.0"
    assert (event["id"], event["type"], event["subject"]) == (event_id, "shoal.alert.raised", "d")
    assert event["time"] == "1970-01-01T00:16:40.250+00:00"
    assert event["data"]["alert"] == 1
    assert event["data"]["kind"] == "change"
    assert events.of_alert(alert, Action.RAISED, 2_000.0)[0] == event_id
    others = {events.of_alert(alert, each, 1.0)[0] for each in Action}
    others.add(events.of_alert(alert._replace(reminders=1), Action.REMINDED, 1.0)[0])
    assert len(others) == len(Action) + 1


def test_a_request_for_training_is_an_event_of_its_own_type() -> None:
    """A pipeline listens to one type, and need not look inside."""
    alert = _decided(Signal(Kind.RETRAINING, "why", family="digits"), 1.0)
    event = json.loads(events.of_alert(alert, Action.RAISED, 1.0)[1])
    assert (event["type"], event["subject"]) == ("shoal.retraining.raised", "digits")


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification, and its definition."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    made = events.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body)
    assert made == "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    headers = events.headers(secret, "id", b"{}", 7.9)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    tag = base64.b64encode(hmac.new(key, b"id.7.{}", hashlib.sha256).digest()).decode()
    assert headers["Webhook-Signature"] == f"v1,{tag}"
    assert headers["Content-Type"].startswith("application/cloudevents+json")
