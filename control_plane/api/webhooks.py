"""Webhooks over HTTP: who is told of alerts. Administrators only: the service calls them."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from control_plane.alerts.decision import Kind
from control_plane.alerts.destinations import URL_CHARS_MAX
from control_plane.alerts.posting import NAME_CHARS_MAX, Posting
from control_plane.api.auth import Access, Caller, Role
from control_plane.store.outbox import Outbox, Standing


class NewWebhook(BaseModel):
    """Where to, and of which kinds of alerts; without kinds of all."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_CHARS_MAX, examples=["pager"])]
    url: Annotated[str, Field(max_length=URL_CHARS_MAX, examples=["https://pager.example/in"])]
    kinds: Annotated[list[Kind], Field(max_length=len(Kind))] = []


class Webhook(BaseModel):
    """A webhook, how much waits for it, and what became of the rest."""

    name: str
    url: str
    kinds: list[Kind]
    created: float
    created_by: str
    waiting: int
    dead: int
    delivered: int
    last_delivered: float | None
    last_error: str | None


class FreshWebhook(BaseModel):
    """A webhook with the secret that its events are signed with, told only this once."""

    name: str
    url: str
    kinds: list[Kind]
    secret: str


class WebhookList(BaseModel):
    """All webhooks."""

    webhooks: list[Webhook]


class Trial(BaseModel):
    """Whether an event arrived."""

    delivered: bool
    status: int | None
    reason: str


def router(
    access: Access, outbox: Outbox, posting: Posting, clock: Callable[[], float]
) -> APIRouter:
    """Return the routes under /webhooks."""
    admin = access.require(Role.ADMIN)
    routes = APIRouter(prefix="/webhooks", tags=["webhooks"], dependencies=[Depends(admin)])

    @routes.get("")
    def list_webhooks() -> WebhookList:
        """List all webhooks, without their secrets."""
        return WebhookList(webhooks=[_shown(each) for each in outbox.all()])

    @routes.post("", status_code=201)
    def add_webhook(new: NewWebhook, caller: Annotated[Caller, Depends(admin)]) -> FreshWebhook:
        """Add a webhook; the answer is the only place where its secret is told."""
        kinds = [kind.value for kind in new.kinds]
        made = posting.add(new.name, new.url, kinds, caller.name, caller.actor)
        return FreshWebhook(name=made.name, url=made.url, kinds=new.kinds, secret=made.secret)

    @routes.delete("/{name}")
    def remove_webhook(name: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Forget a webhook, and what waits for it."""
        outbox.remove(name, clock(), caller.actor)
        return {"deleted": name}

    @routes.post("/{name}/test")
    def test_webhook(name: str) -> Trial:
        """Send one event now, and say whether it arrived."""
        outcome = posting.test(name)
        return Trial(delivered=outcome.is_delivered, status=outcome.status, reason=outcome.reason)

    return routes


def _shown(standing: Standing) -> Webhook:
    about = standing.webhook
    return Webhook(
        name=about.name,
        url=about.url,
        kinds=[Kind(kind) for kind in about.kinds],
        created=about.created,
        created_by=about.created_by,
        waiting=standing.waiting,
        dead=standing.dead,
        delivered=standing.delivered,
        last_delivered=standing.last_delivered,
        last_error=standing.last_error,
    )
