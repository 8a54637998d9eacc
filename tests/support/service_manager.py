"""systemd as its units see it: users and folders on a staged root, sockets, notify, kill, restart.

Not systemd's sandbox; what of that can be had without it stands in `sandbox`.
"""

from __future__ import annotations

import fcntl
import os
import select
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

SYSTEMD = Path(__file__).parents[2] / "systemd"
PREFIX = Path(sys.executable).parent.parent
STATE_DIR = "/var/lib/shoal-agent"
WAIT_S_MAX = 60.0
_NEEDED = (Path(sys.base_prefix), SYSTEMD.parent)  # what every user here must be able to run


def uncovered() -> list[str]:
    """Return the words that run a command where every user can reach interpreter and checkout.

    None where they can anyway; else a mount namespace in which the folder that hides them, such as
    /root, shows them and nothing else.
    """
    lines = []
    for hidden in {top for path in _NEEDED if (top := _hidden(path))}:
        inside = [path for path in _NEEDED if path.is_relative_to(hidden)]
        lines += [f"exec {9 - n}<{shlex.quote(str(path))}" for n, path in enumerate(inside)]
        lines.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(str(hidden))}")
        for n, path in enumerate(inside):
            quoted = shlex.quote(str(path))
            lines += [
                f"(umask 022; mkdir -p {quoted})",
                f"mount -c --bind /proc/self/fd/{9 - n} {quoted}",
            ]
            lines.append(f"exec {9 - n}<&-")
    if not lines:
        return []
    return ["unshare", "--mount", "sh", "-ec", "; ".join([*lines, 'exec "$@"']), "sh"]


def _hidden(path: Path) -> Path | None:
    """Return the first folder on the way to `path` that others may not pass."""
    folders = [*reversed(path.parents), path]
    return next((each for each in folders if not each.stat().st_mode & stat.S_IXOTH), None)


@cache
def missing() -> str:
    """Return what is missing for services to run as users of their own, or nothing."""
    if os.geteuid() != 0:
        return "needs root: call the suite as root, it takes several users"
    tried = subprocess.run([*uncovered(), "true"], check=False, capture_output=True)
    return "needs mount: an interpreter that other users can reach" if tried.returncode else ""


class Unit:
    """A unit file: every value of every key, in order."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, list[str]] = defaultdict(list)
        for line in path.read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self._values[key].append(value)

    def all(self, key: str) -> list[str]:
        """Return all values of a key."""
        return self._values[key]

    def one(self, key: str) -> str:
        """Return the only value of a key."""
        (value,) = self._values[key]
        return value


class Account(NamedTuple):
    """Whom a service runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]

    def command(self) -> list[str]:
        """Return the words that run a command with this account's rights and no others."""
        groups = f"--groups={','.join(map(str, self.groups))}" if self.groups else "--clear-groups"
        rights = [f"--reuid={self.uid}", f"--regid={self.gid}", groups, "--no-new-privs"]
        return [*uncovered(), "setpriv", *rights, "--inh-caps=-all", "--bounding-set=-all"]


class Root:
    """A folder like `/`, with units, users and folders as `systemd/install.sh` leaves them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in ("etc", "run", "var", "var/lib"):
            (path / folder).mkdir()
            (path / folder).chmod(0o755)  # whatever umask this process has
        self.install()

    def install(self) -> None:
        """Install, or install again."""
        command = [str(SYSTEMD / "install.sh"), "--root", str(self.path), "--prefix", str(PREFIX)]
        # Its note that there is no such prefix in the image is right, and no matter here.
        subprocess.run(command, check=True, capture_output=True)

    def at(self, path: str) -> Path:
        """Return where an absolute path lies."""
        return self.path / path.removeprefix("/")

    def unit(self, name: str) -> Unit:
        """Return an installed unit."""
        return Unit(self.at(f"/etc/systemd/system/{name}"))

    def account(self, unit: Unit) -> Account:
        """Return whom a unit runs as."""
        users = [line.split(":") for line in self.at("/etc/passwd").read_text().splitlines()]
        (uid,) = [int(user[2]) for user in users if user[0] == unit.one("User")]
        groups = tuple(self.gid(name) for name in unit.all("SupplementaryGroups"))
        return Account(uid, self.gid(unit.one("Group")), groups)

    def gid(self, name: str) -> int:
        """Return the number of a group."""
        groups = [line.split(":") for line in self.at("/etc/group").read_text().splitlines()]
        (gid,) = [int(group[2]) for group in groups if group[0] == name]
        return gid


@contextmanager
def staged() -> Iterator[Root]:
    """Stage a root where every user can reach it, below a path short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))
    folder.chmod(0o755)
    try:
        yield Root(folder)
    finally:
        shutil.rmtree(folder)


class Service:
    """One service of a root as systemd would run it: on its sockets, as its user, listened to.

    The sockets of the units named outlive every process of the service.
    """

    def __init__(self, root: Root, name: str, sockets: Sequence[str] = (), **extra: str) -> None:
        self.root = root
        self.unit = root.unit(name)
        self.account = root.account(self.unit)
        self.said: list[str] = []
        self._extra = extra
        self._names: list[str] = []
        self._sockets: list[socket.socket] = []
        for each in sockets:
            self._listen(root.unit(each))
        self.log = root.path / f"{name}.log"
        self._notify_path = root.path / f"run/{name}.notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self._notify_path))
        self._notify_path.chmod(0o666)
        self.pid: int | None = None

    def _listen(self, unit: Unit) -> None:
        for address in unit.all("ListenStream"):
            if address.startswith("/"):
                plain = socket.socket(socket.AF_UNIX)
                path = self.root.at(address)
                plain.bind(str(path))
                path.chmod(int(unit.one("SocketMode"), 8))
                owner = self.root.account(_Owner(unit))
                os.chown(path, owner.uid, owner.gid)
            else:
                plain = socket.socket(socket.AF_INET)
                host, _, port = address.rpartition(":")
                plain.bind((host, int(port)))
            # Far from the numbers that the service expects.
            high = fcntl.fcntl(plain.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)
            plain.close()
            self._sockets.append(socket.socket(fileno=high))
            self._sockets[-1].listen(128)
            self._names.append(unit.one("FileDescriptorName"))

    def addresses(self) -> list[object]:
        """Return where the sockets listen."""
        return [each.getsockname() for each in self._sockets]

    def start(self, prefix: Sequence[str] = (), *, watchdog_s: float | None = None) -> None:
        """Start the service, and return when it says that it is ready."""
        words = shlex.split(self.unit.one("ExecStart").replace(STATE_DIR, str(self.state_dir)))
        # LISTEN_PID is the service's own number, which a shell knows that becomes the service.
        shell = f'umask {self.unit.one("UMask")}; LISTEN_PID=$$ exec "$@"'
        self.said = []
        log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", shell, "sh", *self.account.command(), *prefix, *words],
            self._environment(watchdog_s),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, str(self.log), log, 0o644),
                *(
                    (os.POSIX_SPAWN_DUP2, each.fileno(), 3 + place)
                    for place, each in enumerate(self._sockets)
                ),
            ],
        )
        self.wait_for("READY=1")

    @property
    def state_dir(self) -> Path:
        """The device's state directory."""
        return self.root.at(STATE_DIR)

    def _environment(self, watchdog_s: float | None) -> Mapping[str, str]:
        unit_s = float(self.unit.one("WatchdogSec"))
        given = dict(each.split("=", 1) for each in self.unit.all("Environment"))
        return {
            "PATH": os.environ["PATH"],
            **given,
            **self._extra,
            "LISTEN_FDS": str(len(self._sockets)),
            "LISTEN_FDNAMES": ":".join(self._names),
            "NOTIFY_SOCKET": str(self._notify_path),
            "WATCHDOG_USEC": str(int((watchdog_s or unit_s) * 1e6)),
        }

    def hear(self, seconds: float) -> bool:
        """Take in what the service says until it says something or the time is over."""
        if not select.select([self._notify], [], [], seconds)[0]:
            return False
        self.said += self._notify.recv(4096).decode().splitlines()
        return True

    def wait_for(self, word: str) -> None:
        """Return when the service has said `word`; raises AssertionError."""
        ends = time.monotonic() + WAIT_S_MAX
        while word not in self.said:
            is_there = self.is_running() or self.hear(0)
            told = (word, self.said, self.log.read_text())
            assert is_there, told
            assert time.monotonic() < ends, told
            self.hear(0.05)

    def is_running(self) -> bool:
        """Whether the process lives; one that ended is reaped."""
        if self.pid is not None and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = None
        return self.pid is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the status of the end, negative for a signal's."""
        self.send(number)
        assert self.pid is not None
        pid, self.pid = self.pid, None
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        while self.hear(0):
            pass
        return status

    def close(self) -> None:
        """End the service, and close its sockets."""
        if self.pid is not None:
            with suppress(ProcessLookupError):
                self.end(signal.SIGKILL)
        for each in (*self._sockets, self._notify):
            each.close()


class _Owner(Unit):
    """The owner of a socket, written as a service's."""

    def __init__(self, unit: Unit) -> None:
        self._values = defaultdict(
            list, User=[unit.one("SocketUser")], Group=[unit.one("SocketGroup")]
        )
