"""Who this device is, as enrolment left it on disk. Read by the core; written only by enrolment.

All files of an identity lie in one folder, and a symbolic link says which folder counts. A new
identity is made whole beside it, and one rename of the link puts it in place.

    <state>/identity -> identity-<random>       the identity that counts
    <state>/identity.new/                       one that is being made
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from firmware_bundles import durable
from firmware_bundles.errors import ConfigInvalid, NotEnrolled, StateDamaged
from firmware_bundles.identifiers import DeviceId

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: Final = "identity"
_STAGE: Final = "identity.new"
_MADE: Final = "identity-"
# Where an agent of before kept its identity is a folder, which no link can replace in one step.
_BEFORE: Final = "identity-before"
_LINK: Final = ".identity.link"
KEY: Final = "device.key"
CERTIFICATE: Final = "device.crt"
CA: Final = "ca.pem"
ROOT: Final = "root.json"
SECRET: Final = "telemetry.secret"  # noqa: S105 - a file's name
FACTS: Final = "agent.json"
# With the modes they must have: the private key and the secret are the agent's alone.
MODES: Final = {KEY: 0o600, SECRET: 0o600, CERTIFICATE: 0o644, CA: 0o644, ROOT: 0o644, FACTS: 0o644}
_FILE_BYTES_MAX: Final = 256 * 1024
_HANDED_DOWN: Final = 0o440
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
    key_file: Path | None = None

    @property
    def key_path(self) -> Path:
        """The private key: with the other files, unless it is kept elsewhere."""
        return self.key_file or self.directory / KEY


def folder(state_dir: Path) -> Path:
    """Return the folder of the identity that counts now, whether there is one or not.

    It is the folder itself, not the link: what is read from it belongs together.
    """
    link = state_dir / FOLDER
    before = state_dir / _BEFORE
    return before if before.is_dir() and not link.exists() else link.resolve()


def check_enrolled(state_dir: Path) -> None:
    """Raise NotEnrolled unless there is an identity, whatever its condition."""
    if not (folder(state_dir) / FACTS).exists():
        raise NotEnrolled(
            f"there is no identity in {state_dir / FOLDER}: this device is not enrolled"
        )


def load(state_dir: Path, key_file: Path | None = None) -> Identity:
    """Read the identity; `key_file` is the private key, where it is kept elsewhere.

    Raises NotEnrolled, StateDamaged or ConfigInvalid.
    """
    check_enrolled(state_dir)
    directory = folder(state_dir)
    try:
        facts = msgspec.json.decode(_read(directory / FACTS), type=Facts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateDamaged(f"{directory / FACTS} cannot be read: {error}") from error
    for name in MODES:
        path = key_file if name == KEY and key_file else directory / name
        if not path.exists():
            raise StateDamaged(f"{path} is missing")
    check_private(key_file or directory / KEY)
    return Identity(
        key_file=key_file,
        directory=directory,
        device=facts.device,
        server=facts.server,
        broker=parse_broker(facts.broker),
        telemetry_secret=_read(directory / SECRET),
        root=_read(directory / ROOT),
    )


def check_private(key: Path) -> None:
    """Refuse a private key that others may read. Raises ConfigInvalid, StateDamaged.

    Where a service manager hands it down, an access list lets the service read it, and the mode
    shows the list's mask: 0440 in a folder that nobody may write to (systemd.exec(5)).
    """
    try:
        mode = key.stat().st_mode & 0o777
        is_handed_down = mode == _HANDED_DOWN and not key.parent.stat().st_mode & 0o222
    except OSError as error:
        raise StateDamaged(f"{key} cannot be read: {error.strerror}") from error
    if mode & 0o077 and not is_handed_down:
        raise ConfigInvalid(
            f"the private key {key} has mode {mode:04o}: others may read it",
            hint=f"Run: chmod 0600 {key}. Whoever read it keeps it: better enrol with --new-key.",
        )


def stage(state_dir: Path) -> Path:
    """Return the folder in which a new identity is made; of an earlier try only its key is there.

    Raises OSError.
    """
    staged = state_dir / _STAGE
    durable.make_directory(staged, mode=0o700)
    for path in staged.iterdir():
        if path.name != KEY:
            path.unlink()
    return staged


def publish(state_dir: Path) -> None:
    """Let the new identity be the one that counts: all of it or, after a power cut, none.

    What was before stays until `sweep`, for an agent that runs with it. Raises OSError.
    """
    link, made = state_dir / FOLDER, state_dir / f"{_MADE}{secrets.token_hex(4)}"
    pointer = state_dir / _LINK
    with _changing(state_dir):
        (state_dir / _STAGE).rename(made)
        pointer.unlink(missing_ok=True)
        pointer.symlink_to(made.name)
        durable.sync_directory(state_dir)
        if link.is_dir() and not link.is_symlink():
            link.rename(state_dir / _BEFORE)
        pointer.replace(link)
        durable.sync_directory(state_dir)


def sweep(state_dir: Path) -> None:
    """Remove identities that no longer count. Raises OSError."""
    with _changing(state_dir):
        current = folder(state_dir)
        for path in state_dir.glob(f"{_MADE}*"):
            if path.resolve() != current:
                shutil.rmtree(path)
        durable.sync_directory(state_dir)


def forget(state_dir: Path) -> None:
    """Remove the identity: first it counts no more, then it is gone. Raises OSError."""
    link = state_dir / FOLDER
    for path in (state_dir / _BEFORE, link):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            path.rename(state_dir / f"{_MADE}{secrets.token_hex(4)}")
    durable.sync_directory(state_dir)
    sweep(state_dir)
    shutil.rmtree(state_dir / _STAGE, ignore_errors=True)


@contextmanager
def _changing(state_dir: Path) -> Iterator[None]:
    """Let nobody else publish or sweep meanwhile."""
    descriptor = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
