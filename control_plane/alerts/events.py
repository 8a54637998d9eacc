"""Alerts as CloudEvents 1.0 in structured JSON mode, and how they are signed: pure.

The signature is that of Standard Webhooks 1.0: an HMAC-SHA-256 over id, time of the attempt and
body, so that a receiver can tell who sent an event, and drop one that is told again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from control_plane.alerts.decision import Action, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.alerts.decision import Alert

MEDIA_TYPE: Final = "application/cloudevents+json; charset=utf-8"
TEST_TYPE: Final = "shoal.webhook.test"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how secrets begin
_SOURCE: Final = "urn:shoal:control-plane"
_ID_DIGITS: Final = 32


def of_alert(alert: Alert, action: Action, now: float) -> tuple[str, bytes]:
    """Return id and bytes of the event that tells of an alert. The same step has the same id."""
    name = f"{alert.number}/{action.value}/{alert.reminders}"
    topic = "retraining" if alert.kind is Kind.RETRAINING else "alert"
    return encode(
        event_type=f"shoal.{topic}.{action.value}",
        event_id=_event_id(name, alert.raised),
        subject=alert.device_id or alert.cohort or alert.family or "fleet",
        now=now,
        data=document(alert),
    )


def of_test(token: str, now: float) -> tuple[str, bytes]:
    """Return id and bytes of an event that only shows that events arrive."""
    return encode(
        event_type=TEST_TYPE,
        event_id=_event_id(token, now),
        subject="webhook",
        now=now,
        data={"message": "events arrive here"},
    )


def encode(
    *, event_type: str, event_id: str, subject: str, now: float, data: Mapping[str, Any]
) -> tuple[str, bytes]:
    """Return id and bytes of a CloudEvent."""
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": _SOURCE,
        "type": event_type,
        "subject": subject,
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "datacontenttype": "application/json",
        "data": data,
    }
    return event_id, msgspec.json.encode(event)


def document(alert: Alert) -> dict[str, Any]:
    """Return an alert as it is told."""
    fields = alert._asdict()
    del fields["key"], fields["level"], fields["notified"]
    return {"alert": fields.pop("number")} | fields


def headers(secret: str, event_id: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers of one attempt to deliver an event."""
    moment = str(int(now))
    return {
        "Content-Type": MEDIA_TYPE,
        "Webhook-Id": event_id,
        "Webhook-Timestamp": moment,
        "Webhook-Signature": f"v1,{signature(secret, event_id, moment, body)}",
    }


def signature(secret: str, event_id: str, moment: str, body: bytes) -> str:
    """Return the base64 HMAC-SHA-256 of "id.time.body" under the secret's bytes."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    tag = hmac.new(key, f"{event_id}.{moment}.".encode() + body, hashlib.sha256).digest()
    return base64.b64encode(tag).decode()


def _event_id(name: str, at: float) -> str:
    return hashlib.sha256(f"{name}/{at!r}".encode()).hexdigest()[:_ID_DIGITS]
