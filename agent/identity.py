"""Who this device is, as enrolment left it on disk. Read by the core; written only by enrolment."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from firmware_bundles.errors import ConfigInvalid, NotEnrolled, StateDamaged
from firmware_bundles.identifiers import DeviceId

FOLDER: Final = "identity"
KEY: Final = "device.key"
CERTIFICATE: Final = "device.crt"
CA: Final = "ca.pem"
ROOT: Final = "root.json"
SECRET: Final = "telemetry.secret"  # noqa: S105 - a file's name
FACTS: Final = "agent.json"
# With the modes they must have: the private key and the secret are the agent's alone.
MODES: Final = {KEY: 0o600, SECRET: 0o600, CERTIFICATE: 0o644, CA: 0o644, ROOT: 0o644, FACTS: 0o644}
_FILE_BYTES_MAX: Final = 256 * 1024
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_PORTS: Final = {"mqtts": 8883, "mqtt": 1883}


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The content of agent.json."""

    device: DeviceId
    server: str
    broker: str


class Broker(NamedTuple):
    """Where the broker listens; without TLS only on this machine."""

    host: str
    port: int
    is_tls: bool


class Identity(NamedTuple):
    """An enrolled device."""

    directory: Path
    device: str
    server: str
    broker: Broker
    telemetry_secret: bytes
    root: bytes

    @property
    def key_path(self) -> Path:
        """The private key."""
        return self.directory / KEY


def check_enrolled(state_dir: Path) -> None:
    """Raise NotEnrolled unless there is an identity, whatever its condition."""
    directory = state_dir / FOLDER
    if not (directory / FACTS).exists():
        raise NotEnrolled(f"there is no identity in {directory}: this device is not enrolled")


def load(state_dir: Path) -> Identity:
    """Read the identity. Raises NotEnrolled, StateDamaged or ConfigInvalid."""
    check_enrolled(state_dir)
    directory = state_dir / FOLDER
    try:
        facts = msgspec.json.decode(_read(directory / FACTS), type=Facts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateDamaged(f"{directory / FACTS} cannot be read: {error}") from error
    for name in MODES:
        if not (directory / name).exists():
            raise StateDamaged(f"{directory / name} is missing")
    return Identity(
        directory=directory,
        device=facts.device,
        server=facts.server,
        broker=parse_broker(facts.broker),
        telemetry_secret=_read(directory / SECRET),
        root=_read(directory / ROOT),
    )


def parse_broker(url: str) -> Broker:
    """Read `mqtts://host[:port]` or, on loopback, `mqtt://host[:port]`. Raises ConfigInvalid."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigInvalid(f"broker {url!r:.120} is not a URL: {error}") from error
    if parts.scheme not in _PORTS or not host:
        raise ConfigInvalid(f"broker {url!r:.120} must look like mqtts://host:port")
    if parts.scheme == "mqtt" and host not in _LOOPBACK:
        raise ConfigInvalid(
            f"broker {url!r:.120} is without TLS and not on this machine",
            hint="Use mqtts:// for a broker on another machine.",
        )
    return Broker(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise StateDamaged(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise StateDamaged(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    return data
