"""The page in a real browser: log in, see it change without a reload, nothing blocked or broken."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from control_plane.api import tokens
from control_plane.api.auth import Role
from control_plane.store.access import AccessTokens
from control_plane.store.database import Database
from support import fleet_rows, page_world, segments
from support.browser import Browser
from support.http_server import serving

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[page_world.PageWorld]:
    """A full control plane."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    made = page_world.PageWorld(database)
    page_world.fill(made)
    yield made
    database.close()


def test_the_page_follows_the_fleet(world: page_world.PageWorld, tmp_path: Path) -> None:
    """Tiles, devices and the chart change by themselves; what a person opened stays open."""
    total = "document.querySelector('.tiles li:nth-last-child(2) strong').textContent"
    with serving(world.app()) as address, Browser(tmp_path) as browser:
        browser.log_in(address, world.token)
        browser.wait("document.getElementById('link').textContent === 'live'")
        assert browser.evaluate(total) == "7\N{NARROW NO-BREAK SPACE}200"
        assert browser.evaluate("document.querySelectorAll('#chart canvas').length") == 1
        browser.evaluate("window.here = true; document.querySelector('.drift details').open = true")
        numbers = list(range(901, 1001))
        world.send("device-0", segments.predictions(numbers, [1] * 100))
        fleet_rows.enrol(world.database, "device-9", labels={"note": "<b id=evil>"})
        changed = json.dumps("7\N{NARROW NO-BREAK SPACE}300")
        browser.wait(f"{total} === {changed}")
        browser.wait("document.getElementById('device-device-9') !== null")
        assert browser.evaluate("window.here && document.querySelector('.drift details').open")
        assert browser.evaluate("document.getElementById('evil') === null")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems == []


def test_a_column_s_histogram_is_drawn_and_an_alert_acknowledged(
    world: page_world.PageWorld, tmp_path: Path
) -> None:
    """A cell of the heat strip opens its histogram; whoever takes notice is named on the page."""
    fleet_rows.detect(world.database, "device-2", "trust.signature_invalid", 3)
    world.watching.tick()
    world.rounds.tick()
    operator = world.give_token("bea", Role.OPERATOR)
    with serving(world.app()) as address, Browser(tmp_path) as browser:
        browser.log_in(address, operator)
        browser.wait("document.getElementById('link').textContent === 'live'")
        assert browser.evaluate("document.getElementById('histogram').hidden")
        browser.evaluate(
            "document.querySelector('.strip rect[data-column]').dispatchEvent("
            "new MouseEvent('click', {bubbles: true}))"
        )
        browser.wait("document.querySelectorAll('#bars canvas').length === 1")
        assert "image[0]" in browser.evaluate(
            "document.getElementById('histogram-title').textContent"
        )
        browser.evaluate("document.querySelector('[data-acknowledge]').click()")
        browser.wait("document.getElementById('alerts').textContent.includes('by bea')")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems == []


@pytest.mark.parametrize("late", ["htmx.min.js", "hx-sse.min.js", "page.js"])
def test_a_script_that_comes_late_does_not_keep_the_page_from_following(
    world: page_world.PageWorld, tmp_path: Path, late: str
) -> None:
    """Whichever script the network delays, the page says that it is live."""
    app = world.app()

    async def slow(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's own
        if scope["type"] == "http" and scope["path"].endswith(f"/{late}"):
            await asyncio.sleep(1)
        await app(scope, receive, send)

    with serving(slow) as address, Browser(tmp_path) as browser:
        browser.log_in(address, world.token)
        browser.wait("document.getElementById('link').textContent === 'live'")


def test_a_wrong_token_keeps_the_door_shut(world: page_world.PageWorld, tmp_path: Path) -> None:
    """The form comes back with the reason where a screen reader finds it."""
    with serving(world.app()) as address, Browser(tmp_path) as browser:
        browser.open(f"{address}/login")
        browser.evaluate(
            "document.getElementById('token').value = 'shoal_x';"
            "document.querySelector('form button').click()"
        )
        browser.wait("document.querySelector('[role=alert]') !== null")
        assert browser.evaluate("location.pathname") == "/login"


def test_a_rollout_is_watched_and_paused(world: page_world.PageWorld, tmp_path: Path) -> None:
    """Its page follows by itself, asks back before what is drastic, and its buttons work."""
    row = AccessTokens(world.database)
    token = tokens.create(row, "olga", Role.OPERATOR, fleet_rows.NOW).token
    with serving(world.app()) as address, Browser(tmp_path) as browser:
        browser.log_in(address, token)
        browser.open(f"{address}/rollouts/better-4d5e6f")
        browser.wait("document.getElementById('link').textContent === 'live'")
        browser.evaluate("window.here = true; window.confirm = () => false")
        browser.evaluate("document.querySelector('form[action$=abort] button').click()")
        fleet_rows.decide(world.database, "better-4d5e6f", "somebody <i id=evil>looked</i>")
        browser.wait("document.body.textContent.includes('somebody <i id=evil>looked</i>')")
        assert browser.evaluate("window.here && document.getElementById('evil') === null")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        browser.evaluate("document.querySelector('form[action$=pause] button').click()")
        browser.wait("document.querySelector('form[action$=resume]') !== null")
        assert browser.evaluate("document.body.textContent.includes('paused by olga')")
        assert browser.problems == []


def test_a_device_is_looked_at(world: page_world.PageWorld, tmp_path: Path) -> None:
    """A device's name leads to its page, which fits a phone and is blocked by no policy."""
    with serving(world.app()) as address, Browser(tmp_path) as browser:
        browser.log_in(address, world.token)
        browser.wait("document.getElementById('link').textContent === 'live'")
        browser.evaluate("document.querySelector('#device-device-6 th a').click()")
        browser.wait(
            "location.pathname === '/devices/device-6' && document.readyState === 'complete'"
        )
        browser.wait("document.querySelector('.facts time').textContent.endsWith(' ago')")
        assert browser.evaluate("document.body.textContent.includes('device.self_test_failed')")
        for width in (1280, 390):
            for scheme in ("light", "dark"):
                file = tmp_path / f"{width}-{scheme}.png"
                browser.screenshot(file, width=width, scheme=scheme)
                assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), file
        assert browser.problems == []
