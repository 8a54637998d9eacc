"""The page of one rollout: what it shows, who may press which button, and from where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from control_plane.api import tokens
from control_plane.api.auth import Role
from control_plane.store.access import AccessTokens
from control_plane.store.database import Database
from control_plane.store.rollout_reasons import Interval
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import deployment, label_count, reported, rollout
from control_plane.web.outlook import forecast
from control_plane.web.rendering import span
from control_plane.web.rollout_view import trend
from support import fleet_rows, page_world
from support.http import AppTransport
from support.rollout_fleet import rollout as fleet_rollout

SITE = "http://shoal.test"
PAGE = "/rollouts/better-4d5e6f"
OURS = {"Origin": SITE}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[page_world.PageWorld]:
    """A full control plane, with a rollout of whose devices two failed alike."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    made = page_world.PageWorld(database)
    page_world.fill(made)
    fault = {"fault_code": "device.self_test_failed", "fault_message": "<b>off</b> by 41 steps"}
    with database.transaction() as connection:
        failed = reported.c.device_id.in_(["device-1", "device-2"])
        connection.execute(update(reported).where(failed).values(state="failed", **fault))
    yield made
    database.close()


@contextmanager
def visitor(
    world: page_world.PageWorld, role: Role | None, name: str = "olga"
) -> Iterator[httpx.Client]:
    """Give a browser: of somebody with this role, or of a stranger."""
    with httpx.Client(transport=AppTransport(world.app()), base_url=SITE) as made:
        if role is not None:
            rows = AccessTokens(world.database)
            token = tokens.create(rows, name, role, fleet_rows.NOW).token
            assert made.post("/login", data={"token": token}).status_code == 303
        yield made


def state(world: page_world.PageWorld) -> str:
    """Return where the rollout stands."""
    return Rollouts(world.database).get("better-4d5e6f").standing.state.value


def buttons(text: str) -> list[str]:
    """Return the verbs that a page offers."""
    return re.findall(rf'action="{PAGE}/([a-z]+)(?:\?[^"]*)?"', text)


def test_it_shows_phases_gates_and_failures(world: page_world.PageWorld) -> None:
    """Counts, verdicts with what is left of their time, and faults grouped with their devices."""
    with visitor(world, Role.VIEWER) as browser:
        text = browser.get(PAGE).text
        part = browser.get(f"{PAGE}/part").text
    for shown in (text, part):
        assert "device.self_test_failed" in shown
        assert "&lt;b&gt;off&lt;/b&gt; by 41 steps" in shown
        assert '<a href="/devices/device-1">device-1</a>' in shown
        assert "Time left" in shown
        assert "phase 2 begins: 4 devices" in shown
    assert "<html" in text
    assert "<html" not in part
    assert "<b>off" not in text


def test_strangers_are_led_to_the_login(world: page_world.PageWorld) -> None:
    """Without a session there is nothing to see and nothing to press."""
    with visitor(world, None) as browser:
        answers = [browser.get(PAGE), browser.get(f"{PAGE}/part")]
        answers.append(browser.post(f"{PAGE}/pause", headers=OURS))
    assert [each.headers["location"] for each in answers] == ["/login"] * 3
    assert state(world) == "running"


def test_what_is_not_there_is_said(world: page_world.PageWorld) -> None:
    """An unknown rollout and an unknown verb are not found."""
    with visitor(world, Role.ADMIN) as browser:
        assert browser.get("/rollouts/nothing").status_code == 404
        assert "there is no rollout" in browser.get("/rollouts/nothing").text
        assert browser.post(f"{PAGE}/explode", headers=OURS).status_code == 404


def test_buttons_are_what_may_be_done_now(world: page_world.PageWorld) -> None:
    """A viewer has none; an operator has those that the rollout's state allows."""
    with visitor(world, Role.VIEWER, "vera") as browser:
        assert buttons(browser.get(PAGE).text) == []
    with visitor(world, Role.OPERATOR) as browser:
        running = buttons(browser.get(PAGE).text)
        assert {"pause", "abort", "rollback"} <= set(running)
        assert not {"resume", "approve"} & set(running)
        answer = browser.post(f"{PAGE}/pause", headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, PAGE)
        assert state(world) == "paused"
        assert "resume" in buttons(browser.get(PAGE).text)
        assert "paused by olga" in browser.get(PAGE).text
        assert buttons(browser.get("/rollouts/first-1a2b3c").text) == []


def test_a_form_of_another_site_does_nothing(world: page_world.PageWorld) -> None:
    """Also one whose sender the browser does not tell."""
    with visitor(world, Role.ADMIN) as browser:
        for headers in ({"Origin": "http://evil.test"}, {"Origin": "null"}, {}):
            assert browser.post(f"{PAGE}/abort", headers=headers).status_code == 303
    assert state(world) == "running"


def test_a_role_that_is_too_low_is_refused(world: page_world.PageWorld) -> None:
    """Whoever makes the form by hand is told so, and nothing happens."""
    with visitor(world, Role.VIEWER) as browser:
        refused = browser.post(f"{PAGE}/abort", headers=OURS)
    assert refused.status_code == 403
    assert "Refused: olga is viewer; this needs operator" in refused.text
    assert state(world) == "running"


def test_what_the_state_forbids_is_refused_with_the_reason(world: page_world.PageWorld) -> None:
    """Somebody else may have been faster: the page says what stands in the way."""
    with visitor(world, Role.OPERATOR) as browser:
        refused = browser.post(f"{PAGE}/resume", headers=OURS)
    assert refused.status_code == 409
    assert "is running and cannot be resumed" in refused.text


def test_a_phase_is_approved_by_somebody_else(world: page_world.PageWorld) -> None:
    """An approver who did not start the rollout has the button; an operator has not."""
    spec = page_world.SPEC | {"phases": [{"share": 0.5}, {"share": 1.0, "approval": True}]}
    waiting = {"phase": 1, "phase_state": "awaiting", "spec": spec}
    with world.database.transaction() as connection:
        connection.execute(update(rollout).where(rollout.c.id == "better-4d5e6f").values(waiting))
    with visitor(world, Role.OPERATOR, "otto") as browser:
        assert "approve" not in buttons(browser.get(PAGE).text)
        assert browser.post(f"{PAGE}/approve", headers=OURS).status_code == 403
    with visitor(world, Role.APPROVER, "admin") as browser:
        assert "approve" not in buttons(browser.get(PAGE).text)
        assert browser.post(f"{PAGE}/approve", headers=OURS).status_code == 403
    with visitor(world, Role.APPROVER, "anna") as browser:
        assert "approve" in buttons(browser.get(PAGE).text)
        assert browser.post(f"{PAGE}/approve", headers=OURS).status_code == 303
        assert "was approved by anna" in browser.get(PAGE).text


def test_a_button_pressed_twice_approves_one_phase(world: page_world.PageWorld) -> None:
    """It says which phase its page showed; the next one waits for somebody who saw it."""
    phases = [{"share": share, "approval": True} for share in (0.2, 0.5, 1.0)]
    waiting = {"phase": 1, "phase_state": "awaiting", "spec": page_world.SPEC | {"phases": phases}}
    with world.database.transaction() as connection:
        connection.execute(update(rollout).where(rollout.c.id == "better-4d5e6f").values(waiting))
    with visitor(world, Role.APPROVER, "anna") as browser:
        (form,) = re.findall(rf'action="({PAGE}/approve[^"]*)"', browser.get(PAGE).text)
        assert browser.post(form, headers=OURS).status_code == 303
        assert browser.post(form, headers=OURS).status_code == 409
    approved = Rollouts(world.database).get("better-4d5e6f").approvals
    assert [each.phase for each in approved] == [1]


def test_labels_over_time_are_told_by_arm(world: page_world.PageWorld) -> None:
    """Labels of the candidate where it was offered, of other models where it was not."""
    rollouts, since = Rollouts(world.database), fleet_rows.NOW - 600
    found = rollouts.get("better-4d5e6f")
    before = rollouts.labels_over_time(found, since, 60.0)
    models = {
        version: each.digest
        for each in world.reader.read().fleet.models
        if each.digest and (version := each.version)
    }
    rows = [("device-0", "2", 5), ("device-0", "1", 9), ("device-5", "1", 2), ("device-5", "2", 9)]
    with world.database.transaction() as connection:
        connection.execute(update(deployment).values(offered=since))
        for number, (device_id, version, wrong) in enumerate(rows):
            values = {
                "device_id": device_id,
                "incarnation": "f" * 16,
                "kind": "labels",
                "first": number,
                "model": models[version],
                "family": "digits",
                "received": since + 30,
                "labelled": 10,
                "wrong": wrong,
            }
            connection.execute(label_count.insert().values(values))
    added = [each for each in rollouts.labels_over_time(found, since, 60.0) if each not in before]
    assert added == [Interval(0, False, 10, 2), Interval(0, True, 10, 5)]


def test_a_trend_has_a_gap_where_no_label_came() -> None:
    """Both arms share the times; a share is in percent, at the end of its interval."""
    intervals = [
        Interval(0, is_candidate=True, labelled=10, wrong=1),
        Interval(0, is_candidate=False, labelled=50, wrong=1),
        Interval(3, is_candidate=False, labelled=4, wrong=2),
    ]
    assert trend(intervals, 100.0, 10.0) == ([110.0, 140.0], [10.0, None], [2.0, 50.0])


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "\N{EN DASH}"), (0, "0 s"), (119, "119 s"), (600, "10 min"), (7_200, "2 h")],
)
def test_time_left_is_told_shortly(seconds: float | None, words: str) -> None:
    """In the largest unit of which there are two."""
    assert span(seconds) == words


def test_before_it_begins_doubts_are_shown_and_a_forecast_to_who_asks(
    world: page_world.PageWorld,
) -> None:
    """An approver sees notes at once, simulated runs on request; later there is neither."""
    with world.database.transaction() as connection:
        waiting = update(rollout).where(rollout.c.id == "better-4d5e6f")
        connection.execute(waiting.values(phase=0, phase_state="awaiting"))
    with visitor(world, Role.APPROVER) as browser:
        text = browser.get(PAGE).text
        asked = browser.get(f"{PAGE}?forecast=1").text
        part = browser.get(f"{PAGE}/part?forecast=1").text
    assert "phase.soak_short" in text
    assert "soaks for 5 s; devices report every 900 s" in text
    assert "worse by what the gates must not miss" not in text
    assert "worse by what the gates must not miss" in asked
    assert "6 runs end" in asked
    assert "Before it begins" not in part
    with world.database.transaction() as connection:
        begun = update(rollout).where(rollout.c.id == "better-4d5e6f")
        connection.execute(begun.values(phase_state="offering"))
    with visitor(world, Role.APPROVER) as browser:
        assert "Before it begins" not in browser.get(f"{PAGE}?forecast=1").text


def test_a_viewer_cannot_ask_for_a_forecast(world: page_world.PageWorld) -> None:
    """It takes the server's time, as the command does, which needs an operator."""
    with world.database.transaction() as connection:
        waiting = update(rollout).where(rollout.c.id == "better-4d5e6f")
        connection.execute(waiting.values(phase=0, phase_state="awaiting"))
    with visitor(world, Role.VIEWER) as browser:
        text = browser.get(f"{PAGE}?forecast=1").text
    assert "phase.soak_short" in text
    assert "runs end" not in text
    assert "Forecast" not in text


def test_a_forecast_is_the_same_each_time() -> None:
    """Chance has a fixed seed: two who look see the same."""
    found = fleet_rollout(
        "{family: digits, release: '2', cohort: all, "
        "phases: [{share: 0.5}, {share: 1.0}], gates: {latency: {latency_ms_max: 90}}}"
    )
    first, second = (forecast(found, 5_000, 1_000) for _ in range(2))
    assert first == second
    assert first.devices == 200
    assert first.worse is not None
    assert first.worse.outcomes == {"rolled_back": 6}
