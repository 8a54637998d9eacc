"""Events to webhooks: signed, at least once, with retries that a restart does not forget."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from control_plane.alerts.destinations import ATTEMPTS_MAX
from control_plane.api.auth import Role
from control_plane.cli.main import main
from firmware_bundles.errors import WebhookRefused
from support import fleet_rows
from support.http import AppTransport
from support.http_server import serving
from support.watch_world import WatchWorld

URL = "https://hooks.example/in"


@dataclass
class Receiver:
    """Somebody at the other end, who answers as a test says."""

    status: int = 204
    is_there: bool = True
    requests: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Take one request."""
        self.requests.append(request)
        if not self.is_there:
            raise httpx.ConnectError("nobody is there", request=request)
        return httpx.Response(self.status, headers={"Location": "http://127.0.0.1:1/"})

    @property
    def types(self) -> list[str]:
        """The types of all events that came."""
        return [json.loads(each.content)["type"] for each in self.requests]


@pytest.fixture
def receiver() -> Receiver:
    """Give a receiver."""
    return Receiver()


@pytest.fixture
def world(tmp_path: Path, receiver: Receiver) -> Iterator[WatchWorld]:
    """Give a world with a device, one of whose buffers drops rows."""
    made = WatchWorld(tmp_path, httpx.MockTransport(receiver))
    fleet_rows.enrol(made.database, "device-0", is_online=True)
    yield made
    made.close()


def _raise(world: WatchWorld, code: str = "trust.signature_invalid") -> None:
    """Let a matter come up."""
    fleet_rows.detect(world.database, "device-0", code, 1)
    world.tick()


def test_an_event_is_delivered_once_and_its_signature_can_be_checked(
    world: WatchWorld, receiver: Receiver
) -> None:
    """A receiver with the secret knows who sent it, and that nobody changed it."""
    made = world.posting.add("pager", URL, [], "ann")
    _raise(world)
    for _ in range(3):
        world.posting.tick()
    (request,) = receiver.requests
    event = json.loads(request.content)
    assert (event["type"], event["data"]["kind"]) == ("shoal.alert.raised", "refused")
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}."
    key = base64.b64decode(made.secret.removeprefix("whsec_"))
    tag = hmac.new(key, signed.encode() + request.content, hashlib.sha256).digest()
    assert request.headers["webhook-signature"] == f"v1,{base64.b64encode(tag).decode()}"
    assert request.headers["webhook-id"] == event["id"]
    (standing,) = world.stores.outbox.all()
    assert (standing.delivered, standing.waiting, standing.dead) == (1, 0, 0)


def test_a_webhook_is_told_only_what_it_wants(world: WatchWorld, receiver: Receiver) -> None:
    """Kinds narrow; a webhook that was added later is not told of what was."""
    world.posting.add("train", URL, ["retraining"], "ann")
    world.posting.add("all", URL, [], "ann")
    _raise(world)
    world.posting.add("late", URL, [], "ann")
    world.posting.tick()
    assert len(receiver.requests) == 1


def test_what_nobody_takes_is_tried_again_with_the_same_id(
    world: WatchWorld, receiver: Receiver
) -> None:
    """Also by the next process; in between the receiver is left alone."""
    world.posting.add("pager", URL, [], "ann")
    _raise(world)
    receiver.is_there = False
    world.posting.tick()
    world.posting.tick()
    assert len(receiver.requests) == 1
    world.restart()
    world.clock.now += 6
    receiver.is_there, receiver.status = True, 503
    world.posting.tick()
    world.clock.now += 11
    receiver.status = 200
    world.posting.tick()
    assert len({each.headers["webhook-id"] for each in receiver.requests}) == 1
    assert len(receiver.requests) == 3
    assert world.stores.outbox.all()[0].waiting == 0


def test_an_event_that_cannot_be_delivered_dies_and_is_counted(
    world: WatchWorld, receiver: Receiver
) -> None:
    """After hours of attempts; the count and the last reason stay."""
    world.posting.add("pager", URL, [], "ann")
    _raise(world)
    receiver.status = 500
    for _ in range(ATTEMPTS_MAX + 3):
        world.posting.tick()
        world.clock.now += 3_601
    assert len(receiver.requests) == ATTEMPTS_MAX
    (standing,) = world.stores.outbox.all()
    assert (standing.waiting, standing.dead, standing.last_error) == (0, 1, "answered with 500")


def test_one_webhook_that_fails_does_not_hold_up_the_others(
    world: WatchWorld, receiver: Receiver
) -> None:
    """In a round it fails once; its other events wait with the first."""
    answers = {"bad.example": 500, "good.example": 200}

    def answer(request: httpx.Request) -> httpx.Response:
        receiver.requests.append(request)
        return httpx.Response(answers[request.url.host])

    world.transport = httpx.MockTransport(answer)
    world.restart()
    world.posting.add("bad", "https://bad.example/", [], "ann")
    world.posting.add("good", "https://good.example/", [], "ann")
    _raise(world)
    _raise(world, "trust.rollback_attempt")
    world.posting.tick()
    hosts = [each.url.host for each in receiver.requests]
    assert sorted(hosts) == ["bad.example", "good.example", "good.example"]


def test_a_redirect_is_not_followed(world: WatchWorld, receiver: Receiver) -> None:
    """A receiver cannot send the control plane somewhere else, inside its network say."""
    world.posting.add("pager", URL, [], "ann")
    receiver.status = 307
    outcome = world.posting.test("pager")
    assert (outcome.is_delivered, outcome.status) == (False, 307)
    assert len(receiver.requests) == 1


def test_an_address_that_is_no_longer_allowed_is_not_called(
    world: WatchWorld, receiver: Receiver
) -> None:
    """The rule holds when an event is sent, not only when the webhook was added."""
    with pytest.raises(WebhookRefused):
        world.posting.add("pager", "http://hooks.example/", [], "ann")
    made = world.posting.add("pager", URL, [], "ann")
    world.stores.outbox.remove("pager", 1.0)
    world.stores.outbox.add(made._replace(url="http://hooks.example/"))
    assert world.posting.test("pager").status is None
    assert receiver.requests == []


def test_acknowledging_and_the_end_are_told_too(world: WatchWorld, receiver: Receiver) -> None:
    """Whoever was woken learns that somebody looks, and that it is over."""
    world.posting.add("pager", URL, [], "ann")
    _raise(world)
    world.rounds.acknowledge(1, "bea")
    world.clock.now += 200
    world.tick()
    world.posting.tick()
    assert receiver.types == [
        "shoal.alert.raised", "shoal.alert.acknowledged", "shoal.alert.resolved",
    ]  # fmt: skip
    assert json.loads(receiver.requests[1].content)["data"]["acknowledged_by"] == "bea"


def test_webhooks_are_the_administrators_affair(world: WatchWorld) -> None:
    """Addresses are called from inside: nobody else adds one; the secret is told once."""
    app = world.app()
    new = {"name": "pager", "url": URL, "kinds": ["change"]}

    def ask(role: Role, method: str, path: str, **json_: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {world.token(role)}"}
        with httpx.Client(transport=AppTransport(app), base_url="http://shoal.test") as client:
            return client.request(
                method, f"/api/v1/webhooks{path}", headers=headers, json=json_ or None
            )

    for role in (Role.VIEWER, Role.OPERATOR, Role.APPROVER):
        assert ask(role, "POST", "", **new).status_code == 403
        assert ask(role, "GET", "").status_code == 403
    assert ask(Role.ADMIN, "POST", "", **new).json()["secret"].startswith("whsec_")
    assert ask(Role.ADMIN, "POST", "", **new).status_code == 409
    refused = ask(Role.ADMIN, "POST", "", **(new | {"url": "http://10.0.0.1/"}))
    assert (refused.status_code, refused.json()["code"]) == (422, "input.webhook_refused")
    assert ask(Role.ADMIN, "POST", "", **(new | {"kinds": ["nothing"]})).status_code == 422
    listed = ask(Role.ADMIN, "GET", "")
    assert "whsec_" not in listed.text
    assert listed.json()["webhooks"][0]["kinds"] == ["change"]
    assert ask(Role.ADMIN, "DELETE", "/pager").status_code == 200
    assert ask(Role.ADMIN, "DELETE", "/pager").status_code == 404
    actions = [each.action for each in world.stores.audit.after(0, 99, action="webhook.")]
    assert actions == ["webhook.added", "webhook.removed"]


def test_the_commands_add_test_list_and_remove(
    world: WatchWorld,
    receiver: Receiver,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a person types; a trial that does not arrive ends with 4."""
    with serving(world.app()) as url:
        monkeypatch.setenv("SHOAL_SERVER", url)
        monkeypatch.setenv("SHOAL_TOKEN", world.token(Role.ADMIN))

        def run(code: int, *words: str) -> str:
            with pytest.raises(SystemExit) as ended:
                main(["webhook", *words])
            assert ended.value.code == code
            found = capsys.readouterr()
            return found.out + found.err

        assert "whsec_" in run(0, "add", "pager", URL, "--kind", "change")
        assert "delivered" in run(0, "test", "pager")
        assert receiver.types == ["shoal.webhook.test"]
        receiver.status = 500
        assert "answered with 500" in run(4, "test", "pager")
        assert URL in run(0, "list")
        run(0, "remove", "pager")
        assert "nobody is told" in run(0, "list")
        run(2, "add", "pager", "http://hooks.example/")
