"""The page of one device: what it shows, from where it is reached, and who may see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, event, insert, update

from control_plane.api.auth import Role
from control_plane.store.database import Database
from control_plane.store.schema import desired, device, reported
from control_plane.web.policy import HEADERS
from support import fleet_rows, page_world
from support.http import AppTransport

SITE = "http://shoal.test"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[page_world.PageWorld]:
    """A full control plane."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    made = page_world.PageWorld(database)
    page_world.fill(made)
    yield made
    database.close()


@contextmanager
def visitor(world: page_world.PageWorld, *, is_known: bool = True) -> Iterator[httpx.Client]:
    """Give the browser of a viewer, or of a stranger."""
    with httpx.Client(transport=AppTransport(world.app()), base_url=SITE) as made:
        if is_known:
            token = world.give_token("vera", Role.VIEWER)
            assert made.post("/login", data={"token": token}).status_code == 303
        yield made


def shown(world: page_world.PageWorld, device_id: str) -> str:
    """Return the text of a device's page."""
    with visitor(world) as browser:
        answer = browser.get(f"/devices/{device_id}")
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    return answer.text


def test_it_tells_what_a_device_serves_and_why_it_failed(world: page_world.PageWorld) -> None:
    """Version, state, fault and what it was told, each as the device or the fleet has it."""
    row = {
        "device_id": "device-6",
        "family": "digits",
        "generation": 9,
        "path": "digits/2/manifest.json",
        "digest": "0" * 64,
        "length": 1,
        "rollout_id": "better-4d5e6f",
        "arm": "candidate",
        "policy": {},
        "changed": fleet_rows.NOW,
    }
    with world.database.transaction() as connection:
        connection.execute(insert(desired), row)
    text = shown(world, "device-6")
    assert "device.self_test_failed" in text
    assert "golden vector 3 is off by 41 steps" in text
    assert "it did not answer this yet" in text
    assert '<a href="/rollouts/better-4d5e6f">better-4d5e6f</a>, candidate' in text


def test_it_tells_the_rollouts_of_a_device_and_why(world: page_world.PageWorld) -> None:
    """The newest first, each with the device's place, where it stands, and the last reasons."""
    text = shown(world, "device-1")
    newer, older = text.index("better-4d5e6f"), text.index("first-1a2b3c")
    assert newer < older
    assert "number 2 of 8, in phase 2 of 3" in text
    assert "goes back to digits/1/manifest.json" in text
    assert "all 3 phases passed" in text


def test_it_tells_of_the_buffer_of_windows_and_of_what_was_refused(
    world: page_world.PageWorld,
) -> None:
    """What was dropped stands out, and attacks have their code, message and number."""
    fleet_rows.misbehave(world.database)
    lost = {"segments": 3, "bytes": 2700, "rows_dropped": 1234}
    with world.database.transaction() as connection:
        changed = update(device).where(device.c.id == "device-0")
        connection.execute(changed.values(buffer=lost))
    text = shown(world, "device-0")
    assert '<dt>rows dropped</dt><dd class="fault">1\N{NARROW NO-BREAK SPACE}234</dd>' in text
    assert "trust.signature_invalid" in text
    assert "access.subscription_exceeded" in text
    assert '<td class="num">400</td>' in text


def test_text_of_devices_is_no_markup(world: page_world.PageWorld) -> None:
    """Whatever a device says of itself is shown as text."""
    evil = "<b id=evil>&"
    with world.database.transaction() as connection:
        changed = update(device).where(device.c.id == "device-1")
        connection.execute(changed.values(inventory={evil: evil}, labels={"note": evil}))
        said = update(reported).where(reported.c.device_id == "device-1")
        connection.execute(
            said.values(fault_code="x", fault_message=evil, waits_for=evil, delegate_reason=evil)
        )
    text = shown(world, "device-1")
    assert "<b id=evil>" not in text
    assert "&lt;b id=evil&gt;&amp;" in text


def test_it_is_reached_from_the_list_of_devices(world: page_world.PageWorld) -> None:
    """Every device on the first page links to its own."""
    with visitor(world) as browser:
        text = browser.get("/").text
    assert all(f'<a href="/devices/device-{number}">' in text for number in range(8))


def test_strangers_are_led_to_the_login_and_others_to_what_there_is(
    world: page_world.PageWorld,
) -> None:
    """Without a session nothing is shown; a device that is not there is not found."""
    with visitor(world, is_known=False) as browser:
        assert browser.get("/devices/device-1").headers["location"] == "/login"
    with visitor(world) as browser:
        missing = browser.get("/devices/nobody")
    assert missing.status_code == 404
    assert "there is no device &#39;nobody&#39;" in missing.text


def test_a_device_without_anything_has_a_page(world: page_world.PageWorld) -> None:
    """One that enrolled and said nothing yet shows so in every part."""
    fleet_rows.enrol(world.database, "fresh")
    text = shown(world, "fresh")
    assert "It shall run nothing and reported nothing yet." in text
    assert "It is in no rollout." in text


def test_more_devices_cost_no_more_queries(world: page_world.PageWorld) -> None:
    """What is read is of one device, however many there are."""

    def count() -> int:
        statements: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            statements.append(statement)

        event.listen(Engine, "before_cursor_execute", note)
        shown(world, "device-1")
        event.remove(Engine, "before_cursor_execute", note)
        return len(statements)

    before = count()
    for number in range(100, 140):
        fleet_rows.enrol(world.database, f"device-{number}")
        fleet_rows.deploy(world.database, "better-4d5e6f", f"device-{number}", position=number - 92)
    assert count() == before
