"""Where a broker listens, and what the service asks of any broker."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from firmware_bundles.errors import ConfigInvalid

TLS_PORT_DEFAULT: Final = 8883
PLAIN_PORT_DEFAULT: Final = 1883


class Endpoint(NamedTuple):
    """Host and port of a broker, and whether it speaks TLS with client certificates."""

    host: str
    port: int
    is_tls: bool

    @property
    def url(self) -> str:
        """The endpoint as devices are told it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.is_tls else 'mqtt'}://{host}:{self.port}"


class Broker(Protocol):
    """What starts and stops with the service. All calls come from one thread but `save`."""

    name: str

    @property
    def own(self) -> Endpoint:
        """Where the control plane itself connects."""
        ...

    @property
    def offered(self) -> Endpoint:
        """Where devices are told to connect."""
        ...

    def start(self) -> None:
        """Return when clients can connect. Raises BrokerUnreachable."""
        ...

    def save(self) -> None:
        """Write retained messages to disk, where the broker can be asked to."""
        ...

    def install(self, revoked: bytes) -> None:
        """Give it a list (CRL, PEM) of revoked certificates, where it can be given one."""
        ...

    def stop(self) -> None:
        """Return when it is gone."""
        ...


class External:
    """A broker that somebody else runs."""

    name = "external"

    def __init__(self, url: str) -> None:
        self._endpoint = parse(url)

    @property
    def own(self) -> Endpoint:
        """Where the control plane itself connects."""
        return self._endpoint

    @property
    def offered(self) -> Endpoint:
        """Where devices are told to connect."""
        return self._endpoint

    def start(self) -> None:
        """Do nothing: the client keeps trying."""

    def save(self) -> None:
        """Do nothing: its owner decides when it saves."""

    def install(self, revoked: bytes) -> None:
        """Do nothing: its owner takes the list from the data folder."""

    def stop(self) -> None:
        """Do nothing."""


def parse(url: str) -> Endpoint:
    """Read `mqtts://host[:port]`; `mqtt://` only for loopback. Raises ConfigInvalid."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigInvalid(f"broker {url!r:.120} is no URL: {error}") from error
    host = parts.hostname
    if parts.scheme not in {"mqtt", "mqtts"} or not host:
        raise ConfigInvalid(
            f"broker {url!r:.120} is not known",
            hint="Say auto, mosquitto, amqtt or mqtts://HOST:PORT.",
        )
    if parts.scheme == "mqtt" and host not in {"localhost", "127.0.0.1", "::1"}:
        raise ConfigInvalid(
            f"broker {url!r:.120} would carry everything in the clear", hint="Use mqtts://."
        )
    is_tls = parts.scheme == "mqtts"
    return Endpoint(host, port or (TLS_PORT_DEFAULT if is_tls else PLAIN_PORT_DEFAULT), is_tls)
