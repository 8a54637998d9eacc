"""Delivers events to webhooks: at least once, each attempt limited, failures tried again later.

What waits is in the store, so that a restart forgets nothing. Redirects are not followed, and what
a receiver answers is not read beyond its status.
"""

from __future__ import annotations

import logging
import secrets
from base64 import b64encode
from typing import TYPE_CHECKING, Final, NamedTuple

import httpx

from control_plane import outgoing
from control_plane.alerts import destinations, events
from control_plane.audit import SERVICE
from control_plane.store.outbox import Delivery, Webhook
from firmware_bundles.errors import InputError, WebhookRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.outbox import Outbox

_LOG: Final = logging.getLogger(__name__)
ATTEMPT_S_MAX: Final = 10.0
DELIVERIES_MAX: Final = 32  # in one round
REASON_CHARS_MAX: Final = 200
_SECRET_BYTES: Final = 32
NAME_CHARS_MAX: Final = 63


class Outcome(NamedTuple):
    """What became of one attempt; `status` None without an answer."""

    is_delivered: bool
    status: int | None
    reason: str


class Posting:
    """Sends what waits. `allowed` are the hosts that http may be spoken to besides this machine."""

    def __init__(
        self,
        outbox: Outbox,
        clock: Callable[[], float],
        allowed: frozenset[str] = frozenset(),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._allowed = allowed
        self._transport = transport

    def tick(self) -> None:
        """Deliver what is due; a webhook that fails once has its next turn later."""
        failed: set[str] = set()
        for each in self._outbox.due(self._clock(), DELIVERIES_MAX):
            if each.webhook.name not in failed and not self._deliver(each):
                failed.add(each.webhook.name)

    def add(
        self, name: str, url: str, kinds: Sequence[str], by: str, actor: str = SERVICE
    ) -> Webhook:
        """Add a webhook with a fresh secret, in the name `by`; `actor` is who for the audit log.

        Raises WebhookRefused, InputError, ConflictError.
        """
        if not name or len(name) > NAME_CHARS_MAX or not name.isprintable() or "/" in name:
            raise InputError("the name of a webhook is 1 to 63 characters without a slash")
        made = Webhook(
            name=name,
            url=destinations.check(url, self._allowed),
            secret=events.SECRET_PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode(),
            kinds=tuple(kinds),
            created=self._clock(),
            created_by=by,
        )
        self._outbox.add(made, actor)
        return made

    def test(self, name: str) -> Outcome:
        """Send an event that only shows whether events arrive. Raises NotFound."""
        now = self._clock()
        event_id, body = events.of_test(secrets.token_hex(8), now)
        return self._attempt(self._outbox.get(name), event_id, body)

    def _deliver(self, each: Delivery) -> bool:
        outcome = self._attempt(each.webhook, each.event_id, each.body)
        if outcome.is_delivered:
            self._outbox.delivered(each, self._clock())
            return True
        due = destinations.retry(each.attempts + 1, self._clock()).at
        self._outbox.failed(each, outcome.reason, due)
        if due is None:
            _LOG.warning(
                "event dead webhook=%s event=%s reason=%s",
                each.webhook.name, each.event_id, outcome.reason,
            )  # fmt: skip
        else:
            self._outbox.postpone(each.webhook.name, due)
        return False

    def _attempt(self, to: Webhook, event_id: str, body: bytes) -> Outcome:
        try:
            destinations.check(to.url, self._allowed)
            headers = events.headers(to.secret, event_id, body, self._clock())
            status, _ = outgoing.post(
                to.url, body, headers, s_max=ATTEMPT_S_MAX, bytes_max=0, transport=self._transport
            )
        except WebhookRefused as error:
            return Outcome(is_delivered=False, status=None, reason=error.message)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            reason = f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]
            return Outcome(is_delivered=False, status=None, reason=reason)
        is_delivered = httpx.codes.is_success(status)
        return Outcome(is_delivered, status, f"answered with {status}")
