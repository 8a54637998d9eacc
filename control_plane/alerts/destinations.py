"""Where events may go, and when a delivery that failed is tried again: pure.

An address comes from an administrator, and the control plane would call it from inside a network:
only https is called, http on this machine, and what the configuration allows by name.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from firmware_bundles.errors import WebhookRefused

URL_CHARS_MAX: Final = 2_000
ATTEMPTS_MAX: Final = 12
_FIRST_S: Final = 5.0
_LONGEST_S: Final = 3_600.0


class Retry(NamedTuple):
    """When a delivery is tried again; never, when `at` is None: it is dead."""

    at: float | None


def check(url: str, allowed: frozenset[str] = frozenset()) -> str:
    """Return an address that events may be sent to. Raises WebhookRefused.

    `allowed` are the hosts, or host:port, that http may be spoken to besides this machine.
    """
    if len(url) > URL_CHARS_MAX or not url.isascii() or not url.isprintable() or " " in url:
        raise WebhookRefused("the address of a webhook is no URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise WebhookRefused(f"the address of a webhook is no URL: {error}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise WebhookRefused(f"{url!r:.120} is no address of http or https")
    if parts.username or parts.password or parts.fragment:
        raise WebhookRefused("the address of a webhook holds a name, a password or a fragment")
    if parts.scheme == "http" and not (
        _is_loopback(host) or host in allowed or f"{host}:{port or 80}" in allowed
    ):
        raise WebhookRefused(f"http to {host!r:.80} is not allowed")
    return url


def hosts(text: str) -> frozenset[str]:
    """Return the hosts of a setting, separated by commas."""
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def retry(attempts: int, now: float) -> Retry:
    """Say when to try again after so many failed attempts: doubled from 5 s, up to an hour."""
    if attempts >= ATTEMPTS_MAX:
        return Retry(None)
    return Retry(now + min(_LONGEST_S, _FIRST_S * 2.0 ** (attempts - 1)))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
