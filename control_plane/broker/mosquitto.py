"""A mosquitto child: its files, its start, its restart if it dies, its end.

All paths in its configuration are relative to its folder, which is its working directory: the
user that it runs as need not be able to reach the folder by name. Its rights are dropped in
`launch`, who may do what at it stands in `acl`.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final

from control_plane.broker import acl, subscriptions
from control_plane.broker.endpoint import Endpoint
from control_plane.broker.log_file import LogFile
from firmware_bundles import durable
from firmware_bundles.errors import BrokerUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from control_plane.fleet.authority import Pair

_LOG: Final = logging.getLogger(__name__)
_USER: Final = "mosquitto"
_REVOKED: Final = "crl.pem"
_READY_S_MAX: Final = 10.0
_STOP_S_MAX: Final = 3.0
_RESTART_S_MIN: Final = 0.2
_RESTART_S_MAX: Final = 5.0
_POLL_S: Final = 0.02
_PACKET_BYTES_MAX: Final = 1_100_000
_QUEUED_MESSAGES_MAX: Final = 20_000
_LINE_BYTES_MAX: Final = 256 * 1024  # a name and a filter have 64 KiB each at most
_QUEUED_BYTES_MAX: Final = 64 * 1024 * 1024
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 compared, not bound


def find() -> str | None:
    """Return the program's path, if it is installed; Debian keeps it out of a user's PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def configuration(host: str, port: int) -> str:
    """Return what mosquitto reads at its start. Pure.

    It saves when it ends and when it is asked to, not by the clock: each save writes all that is
    retained, and what a crash loses is said again.
    """
    return f"""\
# Written at each start.
per_listener_settings false
listener {port} {host}
cafile ca.pem
certfile server.pem
keyfile server.key
crlfile crl.pem
tls_version tlsv1.2
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false
acl_file acl
max_packet_size {_PACKET_BYTES_MAX}
max_queued_messages {_QUEUED_MESSAGES_MAX}
max_queued_bytes {_QUEUED_BYTES_MAX}
max_inflight_messages 100
persistence true
persistence_location ./
autosave_interval 0
sys_interval 0
log_dest stderr
log_type error
log_type warning
log_type subscribe
connection_messages false
"""


class Mosquitto:
    """A broker of our own with TLS and client certificates."""

    name = "mosquitto"

    def __init__(
        self,
        program: str,
        directory: Path,
        *,
        host: str,
        port: int,
        offered_host: str,
        exceeded: Callable[[str, str], None] = lambda _client, _filter: None,
    ) -> None:
        self._program = program
        self._directory = directory
        self._host = host
        self._port = port or _free_port(host)
        self._offered_host = offered_host
        self._exceeded = exceeded
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="mosquitto", daemon=True)

    @property
    def own(self) -> Endpoint:
        """Where the control plane itself connects."""
        return Endpoint(_WILDCARDS.get(self._host, self._host), self._port, is_tls=True)

    @property
    def offered(self) -> Endpoint:
        """Where devices are told to connect."""
        return Endpoint(self._offered_host, self._port, is_tls=True)

    def prepare(self, ca: bytes, server: Pair, revoked: bytes) -> None:
        """Write its files; `server` must be valid for all names that clients connect to.

        `ca` holds root and issuing certificate: some clients show no more than their own.
        `revoked` is the list of revoked certificates.
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, data in (
            ("ca.pem", ca),
            ("server.pem", server.certificate),
            ("server.key", server.key),
            (_REVOKED, revoked),
            ("acl", acl.text().encode()),
            ("mosquitto.conf", configuration(self._host, self._port).encode()),
        ):
            self._write(name, data)
        self._log_path.write_bytes(b"")
        for path in (self._directory, *self._directory.iterdir()):
            _give(path)

    def start(self) -> None:
        """Return when clients can connect. Raises BrokerUnreachable."""
        deadline = time.monotonic() + _READY_S_MAX
        # Whoever answers before ours runs is another; one of an earlier life is about to end.
        while _answers(self.own):
            if time.monotonic() > deadline:
                raise BrokerUnreachable(
                    f"something else listens on {self.own.url}",
                    hint="Stop it, or choose another port with --broker-port.",
                )
            time.sleep(_POLL_S)
        self._thread.start()
        while not _answers(self.own):
            if time.monotonic() > deadline:
                self.stop()
                raise BrokerUnreachable(
                    f"mosquitto does not listen on {self.own.url}: {self._last_words()}",
                    hint=f"See {self._log_path}, or choose another port with --broker-port.",
                )
            time.sleep(_POLL_S)

    def save(self) -> None:
        """Ask it to write its retained messages to disk (mosquitto(8), SIGUSR1)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def install(self, revoked: bytes) -> None:
        """Let it read a new list of revoked certificates; sessions that are open stay open."""
        self._write(_REVOKED, revoked)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it, in order if it obeys."""
        self._stopping.set()
        if self._thread.ident is None:
            return
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()
        self._thread.join(_STOP_S_MAX)
        if self._thread.is_alive() and self._process is not None:
            self._process.kill()
            self._thread.join()

    @property
    def pid(self) -> int | None:
        """The number of its process, while there is one."""
        return self._process.pid if self._process is not None else None

    @property
    def _log_path(self) -> Path:
        return self._directory / "mosquitto.log"

    def _write(self, name: str, data: bytes) -> None:
        durable.write(self._directory / name, data, mode=0o600)
        _give(self._directory / name)

    def _supervise(self) -> None:
        # One thread starts every child: a child dies with the thread that started it.
        pause_s = _RESTART_S_MIN
        while not self._stopping.is_set():
            begun = time.monotonic()
            try:
                code = self._run()
            except OSError as error:
                code = error.errno or -1
            if self._stopping.is_set():
                return
            lived_s = time.monotonic() - begun
            pause_s = _RESTART_S_MIN if lived_s > _RESTART_S_MAX else pause_s * 2
            pause_s = min(pause_s, _RESTART_S_MAX)
            _LOG.error(
                "mosquitto ended code=%d again_in_s=%.1f last_words=%s",
                code,
                pause_s,
                self._last_words(),
            )
            self._stopping.wait(pause_s)

    def _run(self) -> int:
        launcher = [sys.executable, "-I", "-m", "control_plane.broker.launch"]
        command = [self._program, "-c", "mosquitto.conf"]
        self._process = subprocess.Popen(
            [*launcher, str(os.getpid()), _user() or "-", *command],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self._stopping.is_set():
            self._process.terminate()
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self._listen(said)
        return self._process.wait()

    def _listen(self, said: IO[bytes]) -> None:
        """Read the log to its end: subscriptions are looked at, all else is kept."""
        log = LogFile(self._log_path)
        while line := said.readline(_LINE_BYTES_MAX):
            found = subscriptions.parse(line.decode(errors="replace").rstrip("\n"))
            if found is None:
                log.append(line)
            elif not subscriptions.is_needed(found):
                self._exceeded(found.client, found.filter)

    def _last_words(self) -> str:
        return LogFile(self._log_path).last() or "it said nothing"


def _user() -> str | None:
    """Return whom the broker becomes: nobody with rights, if we have them all."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return "nobody"
    return _USER


def _give(path: Path) -> None:
    """Let the broker read a file: it has few rights when it is told to read again."""
    if (user := _user()) is not None:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)


def _answers(endpoint: Endpoint) -> bool:
    try:
        with socket.create_connection((endpoint.host, endpoint.port), timeout=1):
            return True
    except OSError:
        return False


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
