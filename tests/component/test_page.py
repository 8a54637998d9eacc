"""The page for people: who may see it, what it shows, and that nothing in it can run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from control_plane.api.auth import SESSION_COOKIE
from control_plane.store.access import AccessTokens
from control_plane.store.database import Database
from control_plane.web import rendering
from control_plane.web.snapshot import rates
from control_plane.web.static_files import NAMES
from support import fleet_rows, page_world
from support.http import AppTransport

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[page_world.PageWorld]:
    """An empty control plane."""
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    yield page_world.PageWorld(database)
    database.close()


@pytest.fixture
def client(world: page_world.PageWorld) -> Iterator[httpx.Client]:
    """A browser that is not logged in."""
    with httpx.Client(transport=AppTransport(world.app()), base_url="http://shoal.test") as made:
        yield made


@pytest.fixture
def reader(world: page_world.PageWorld, client: httpx.Client) -> httpx.Client:
    """A browser that is logged in."""
    assert client.post("/login", data={"token": world.token}).status_code == 303
    return client


def test_the_page_needs_a_login(client: httpx.Client) -> None:
    """Without a session the page leads to the login, and the feed and the API refuse."""
    answer = client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert client.get("/api/v1/events").status_code == 401
    assert client.get("/api/v1/telemetry/predictions").status_code == 401
    assert "API token" in client.get("/login").text


def test_a_token_opens_a_session(world: page_world.PageWorld, client: httpx.Client) -> None:
    """The cookie can be read by no script and is sent from no other site."""
    answer = client.post("/login", data={"token": f"  {world.token}\n"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{SESSION_COOKIE}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert world.token not in cookie
    assert "alice" in client.get("/").text


def test_a_wrong_token_is_refused(client: httpx.Client) -> None:
    """The form comes back with the reason, and without a session."""
    for token in ("", "shoal_nobody_x", HOSTILE):
        answer = client.post("/login", data={"token": token})
        assert answer.status_code == 401
        assert "Not logged in" in answer.text
        assert "set-cookie" not in answer.headers
        assert HOSTILE not in answer.text


def test_a_login_from_another_site_is_refused(
    world: page_world.PageWorld, client: httpx.Client
) -> None:
    """A form of another site opens no session here."""
    answer = client.post(
        "/login", data={"token": world.token}, headers={"Origin": "https://evil.example"}
    )
    assert answer.status_code == 401


def test_logging_out_and_withdrawing_end_a_session(
    world: page_world.PageWorld, reader: httpx.Client
) -> None:
    """After either the page leads to the login again."""
    cookie = reader.cookies[SESSION_COOKIE]
    assert reader.get("/").status_code == 200
    reader.post("/logout")
    assert reader.get("/").status_code == 303
    reader.cookies.set(SESSION_COOKIE, cookie)
    tokens = AccessTokens(world.database)
    tokens.delete(tokens.all()[0].prefix, 0.0)
    assert reader.get("/").status_code == 303


def test_an_empty_control_plane_says_what_to_do(reader: httpx.Client) -> None:
    """Every part renders without data, and names the command that brings some."""
    text = reader.get("/").text
    for words in ("No rollout yet", "No device is enrolled yet", "No windows", "reported a model"):
        assert words in text


def test_alerts_and_changed_devices_stand_on_the_page(
    world: page_world.PageWorld, reader: httpx.Client
) -> None:
    """What is the matter, with a button that viewers do not see; each device beside its fleet."""
    page_world.fill(world)
    fleet_rows.detect(world.database, "device-2", "trust.signature_invalid", 3)
    world.watching.tick()
    world.rounds.tick()
    text = reader.get("/").text
    assert "device device-2 reports 3 refused attempts: trust.signature_invalid" in text
    assert 'data-acknowledge="1"' in text
    assert '<body data-role="viewer">' in text
    beside = text[text.index('id="beside"') : text.index('id="devices"')]
    assert beside.count('class="interval"') == 8
    assert "commissioning" in beside
    drift = text[text.index('id="drift"') : text.index('id="histogram"')]
    assert 'data-column="image[21]"' in drift
    assert re.search(r"none<small>of 4 devices watched", drift)


def test_a_full_control_plane_is_shown(world: page_world.PageWorld, reader: httpx.Client) -> None:
    """Devices by state and model, phases, gates, why and drift stand on the page."""
    page_world.fill(world)
    text = reader.get("/").text
    found = re.findall(r'<li class="is-([a-z-]+)[^"]*"><strong>(\d+)</strong>', text)
    assert dict(found) == {
        "serving": "5",
        "updating": "1",
        "failed": "1",
        "offline": "1",
        "no-model": "0",
    }
    for words in (
        "device.self_test_failed",
        "site=berlin",
        "soaking",
        "INCONCLUSIVE",
        "created by",
    ):
        assert words in text
    assert text.count('class="strip"') == 6
    assert "image[2" in text


def test_access_and_misconduct_stand_beside_a_device(
    world: page_world.PageWorld, reader: httpx.Client
) -> None:
    """Who has no access counts as such and not as offline; what was refused is counted."""
    page_world.fill(world)
    fleet_rows.misbehave(world.database)
    text = reader.get("/").text
    row = {
        name: re.sub(r"<[^>]+>|\s+", " ", found)
        for name, found in re.findall(r'<tr id="device-([^"]+)">(.*?)</tr>', text, re.DOTALL)
    }
    assert "4 refused" in row["device-0"]
    assert "2 misconduct" in row["device-0"]
    assert "retiring" in row["device-1"]
    assert "retired" in row["device-2"]
    assert re.search(r'<li class="is-no-access"><strong>1</strong> no access</li>', text)


def test_names_from_outside_cannot_run(world: page_world.PageWorld, reader: httpx.Client) -> None:
    """Labels, faults and reasons are text, also where they look like markup."""
    page_world.fill(world)
    fleet_rows.enrol(world.database, "evil", labels={"note": HOSTILE, HOSTILE: "x"})
    fleet_rows.report(
        world.database,
        "evil",
        state="failed",
        serving_version=HOSTILE,
        serving_digest=f'"{HOSTILE}',
        fault_code=HOSTILE,
        fault_message=f'"><img src=x onerror=alert(1)>{HOSTILE}',
    )
    fleet_rows.decide(world.database, "better-4d5e6f", HOSTILE)
    text = reader.get("/").text
    assert "&lt;script&gt;alert(1)" in text
    assert HOSTILE not in text
    assert "<img src=x" not in text
    parts = rendering.messages(world.reader.read())
    assert not any(HOSTILE in part.data for part in parts.values())


def test_the_policy_allows_nothing_in_the_text(
    world: page_world.PageWorld, reader: httpx.Client
) -> None:
    """Scripts and styles come from files of this server only; the page has none of its own."""
    page_world.fill(world)
    answer = reader.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", answer.text) == []
    assert re.findall(r'(?:src|href)="(?:https?:)?//', answer.text) == []


def test_files_come_from_a_closed_list(client: httpx.Client) -> None:
    """Every listed file is served with its type; nothing else is, whatever the path says."""
    for name in NAMES:
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    for name in ("vendor/VENDOR.md", "../pages.py", "%2e%2e/pages.py", ""):
        assert client.get(f"/static/{name}").status_code == 404


def test_vendored_files_are_those_of_the_list() -> None:
    """Each vendored file has the digest, and the licence file, that VENDOR.md names."""
    folder = files("control_plane.web") / "static" / "vendor"
    rows = re.findall(
        r"^\| (\S+) \|.*\(\[(\S+)\].*`([0-9a-f]{64})` \|$",
        (folder / "VENDOR.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert {f"vendor/{name}" for name, _, _ in rows} == {
        name for name in NAMES if name.startswith("vendor/")
    }
    for name, licence, digest in rows:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert (folder / licence).read_text(encoding="utf-8")


def test_rates_are_of_whole_intervals() -> None:
    """The running interval is left out, quiet ones are zero, older ones are not shown."""
    found = rates([(0.0, 100), (3.5, 6), (5.9, 3), (9.5, 30), (12.1, 99)], 12.5, 3.0, 3)
    assert (found.times, found.values) == ([6.0, 9.0, 12.0], [3.0, 0.0, 10.0])
    assert found.latest == 10.0
    assert rates([], 12.5, 3.0, 3).latest == 0.0
