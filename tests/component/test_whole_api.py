"""The application as `shoal serve` makes it: who may use its routes, and what is no request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane import service
from control_plane.api import tokens
from control_plane.api.auth import Role
from control_plane.config import Config
from control_plane.store.database import Database
from control_plane.store.stores import Stores
from firmware_bundles.wire import topics
from support.http import AppTransport

NOW = 1_760_000_000.0
OPEN = {"GET /healthz", "POST /api/v1/enrol", "GET /api/v1/chunks/{digest}"}
VIEWERS_POSTS = {
    "POST /api/v1/cohorts/match",
    "POST /api/v1/cohorts/runtimes",
    "POST /api/v1/rollouts/check",
}

# What each route tells the audit log, and those that change nothing that anybody decides.
TOLD = {
    "POST /api/v1/alerts/{number}/acknowledge": "alert.acknowledged",
    "POST /api/v1/broker/certificate": "broker.certified",
    "POST /api/v1/cohorts": "cohort.made",
    "PUT /api/v1/cohorts/{name}": "cohort.changed",
    "POST /api/v1/declarations/{name}": "declaration.noted",
    "DELETE /api/v1/cohorts/{name}": "cohort.deleted",
    "PATCH /api/v1/devices/{device_id}": "device.labelled",
    "POST /api/v1/devices/{device_id}/retire": "device.retiring",
    "POST /api/v1/devices/{device_id}/revoke": "device.revoked",
    "POST /api/v1/enrol": "device.enrolled",
    "POST /api/v1/enrolment-tokens": "device.invited",
    "POST /api/v1/releases": "release.published",
    "POST /api/v1/rollouts": "rollout.created",
    "POST /api/v1/rollouts/{rollout_id}/abort": "rollout.decided",
    "POST /api/v1/rollouts/{rollout_id}/approve": "rollout.approved",
    "POST /api/v1/rollouts/{rollout_id}/promote": "rollout.decided",
    "POST /api/v1/rollouts/{rollout_id}/retry": "rollout.decided",
    "POST /api/v1/rollouts/{rollout_id}/pause": "rollout.decided",
    "POST /api/v1/rollouts/{rollout_id}/resume": "rollout.decided",
    "POST /api/v1/rollouts/{rollout_id}/rollback": "rollout.decided",
    "POST /api/v1/telemetry/recommission": "device.commissioned_anew",
    "POST /api/v1/tokens": "token.made",
    "DELETE /api/v1/tokens/{prefix}": "token.withdrawn",
    "POST /api/v1/trust/bootstrap": "trust.begun",
    "POST /api/v1/trust/changes": "trust.changed",
    "POST /api/v1/trust/online-keys/{role}/next": "online_key.prepared",
    "POST /api/v1/trust/roles/{family}": "trust.changed",
    "POST /api/v1/webhooks": "webhook.added",
    "DELETE /api/v1/webhooks/{name}": "webhook.removed",
}
UNTOLD = VIEWERS_POSTS | {
    "POST /api/v1/chunks/missing",
    "POST /api/v1/rollouts/simulate",
    "PUT /api/v1/chunks/{digest}",
    "POST /api/v1/webhooks/{name}/test",
}


class Whole:
    """The composition root's application over a database on disk; nothing is started."""

    def __init__(self, directory: Path) -> None:
        config = Config(data=directory, broker="mqtts://broker.example", local_port=0, port=0)
        self.database = Database.open(config.database_url)
        stores = Stores.over(self.database)
        self.service = service._Service(config, stores, 8443, lambda: NOW, print)
        self.app = self.service.app
        self.token = tokens.create(stores.tokens, "looker", Role.VIEWER, NOW).token

    def routes(self) -> Iterator[tuple[str, str]]:
        """Give method and path of every route of the OpenAPI document."""
        for path, methods in self.app.openapi()["paths"].items():
            for method in methods:
                yield method.upper(), path

    def ask(self, method: str, path: str, token: str | None) -> int:
        """Return the status that a route answers with."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with httpx.Client(transport=AppTransport(self.app), base_url="http://localhost") as client:
            filled = path.replace("{", "").replace("}", "")
            return client.request(method, filled, headers=headers, json={}).status_code


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Give the application."""
    made = Whole(tmp_path_factory.mktemp("whole"))
    yield made
    made.database.close()


def test_every_route_asks_for_a_token(whole: Whole) -> None:
    """What is open to everybody is a short list; all else answers 401 before it reads anything."""
    routes = dict.fromkeys(whole.routes())
    assert len(routes) > 30
    for method, path in routes:
        status = whole.ask(method, path, None)
        assert (status == 401) == (f"{method} {path}" not in OPEN), (method, path, status)


def test_a_viewer_changes_nothing(whole: Whole) -> None:
    """Every route that is no reading refuses a viewer, but those that only compute an answer."""
    for method, path in whole.routes():
        name = f"{method} {path}"
        if method != "GET" and name not in OPEN | VIEWERS_POSTS:
            assert whole.ask(method, path, whole.token) == 403, name


def test_refusals_of_all_that_devices_say_are_counted_together(whole: Whole) -> None:
    """What is no topic, no hello and no segment of a device that is known, by code."""
    whole.service._inbox.handle(
        [
            ("shoal/v1/d/../up/hello", b"x"),
            (topics.up("ghost", topics.Up.HELLO), b"nonsense"),
            (topics.up("ghost", topics.Up.TELEMETRY), bytes(40)),
        ]
    )
    with httpx.Client(transport=AppTransport(whole.app), base_url="http://localhost") as client:
        headers = {"Authorization": f"Bearer {whole.token}"}
        found = client.get("/api/v1/broker", headers=headers).json()
    assert found["refused"] == {"wire.malformed": 2, "trust.authentication_failed": 1}


def test_half_a_body_is_no_request(whole: Whole) -> None:
    """A sender that goes away in the middle of a rollout file has not asked for its first half."""
    waiting: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"family: digits\n", "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[Any] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        answered.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/api/v1/rollouts/check", "query_string": b"",
        "headers": [(b"authorization", f"Bearer {whole.token}".encode())],
        "http_version": "1.1", "scheme": "http", "server": ("localhost", 80),
    }  # fmt: skip
    asyncio.run(whole.app(scope, receive, send))
    assert answered == []


def test_every_route_that_acts_tells_the_audit_log(whole: Whole) -> None:
    """A route that is no reading names the action that it tells, or why it tells none."""
    acting = {f"{method} {path}" for method, path in whole.routes() if method != "GET"}
    assert acting == TOLD.keys() | UNTOLD
    assert not TOLD.keys() & UNTOLD
