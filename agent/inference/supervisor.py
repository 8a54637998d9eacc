"""Keeps the worker alive where no service manager does: demo, tests, containers.

The contract is systemd's: the sockets are bound once, outlive every worker, and queue what arrives
while none is there (sd_listen_fds(3)); a worker whose heartbeat stops is killed (sd_notify(3)).
What the worker does stands in `worker`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.inference.watchdog import NOTIFY_SOCKET, Watchdog
from firmware_bundles.errors import ConfigInvalid, WorkerUnavailable

INFERENCE_SOCKET: Final = "inference.sock"
CONTROL_SOCKET: Final = "control.sock"
WATCHDOG_S_DEFAULT: Final = 30.0

_PATH_BYTES_MAX: Final = 100  # sun_path holds 108, on some systems 104
_BACKLOG: Final = 1024
_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_RESTART_S_MIN: Final = 0.05
_RESTART_S_MAX: Final = 30.0
_HEALTHY_S: Final = 10.0  # a worker that lived this long starts the backoff anew
_PATIENT_DEATHS: Final = 5  # so many deaths in a row are answered within a second
_STOP_S_MAX: Final = 5.0


class Supervisor:
    """Starts the worker of `state_dir` on sockets in `run_dir`, and again when it dies.

    `deaths` counts the ends that nobody asked for, also of a worker that was silent for longer than
    `watchdog_s` and killed for it; `died` is set at each, for one listener. `on_event(name, facts)`
    hears of each start and death. A worker ends by itself when its supervisor is gone.
    """

    def __init__(
        self,
        state_dir: Path,
        run_dir: Path,
        python: str = sys.executable,
        on_event: Callable[[str, dict[str, object]], None] | None = None,
        watchdog_s: float = WATCHDOG_S_DEFAULT,
    ) -> None:
        self.deaths = 0
        self.died = asyncio.Event()
        self.pid: int | None = None
        self._state_dir = state_dir
        self._run_dir = run_dir
        self._python = python
        self._on_event = on_event or (lambda _name, _facts: None)
        self._watchdog = Watchdog(run_dir / NOTIFY_SOCKET, watchdog_s)
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None
        # The worker reads the other end: its end of file tells that this process is gone.
        self._lifeline: tuple[int, int] | None = None

    async def start(self) -> None:
        """Bind the sockets and start the worker; does not wait until it serves.

        Raises ConfigInvalid for a path that is too long, WorkerUnavailable when it cannot bind.
        """
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            for name, mode in ((INFERENCE_SOCKET, 0o660), (CONTROL_SOCKET, 0o600)):
                self._sockets.append(_bind(self._run_dir / name, mode))
            self._watchdog.open()
        except OSError as error:
            raise WorkerUnavailable(
                f"the worker's sockets in {self._run_dir} cannot be bound: {error.strerror}"
            ) from error
        self._lifeline = os.pipe2(os.O_CLOEXEC)
        self._task = asyncio.create_task(self._keep_alive(), name="worker supervisor")

    async def stop(self) -> None:
        """End the worker (SIGTERM, after a while SIGKILL), close and remove the sockets."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        for each in self._sockets:
            _unbind(each)
        self._sockets = []
        self._watchdog.close()
        for descriptor in self._lifeline or ():
            os.close(descriptor)
        self._lifeline = None

    async def _keep_alive(self) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                status: int | None = await self._live()
            except OSError as error:  # no process or descriptor to be had: that passes, too
                status = None
                self._on_event("worker_not_started", {"why": str(error)})
            self.deaths += 1
            self.died.set()
            lived_s = time.monotonic() - started
            failures = 1 if lived_s >= _HEALTHY_S else failures + 1
            self._on_event("worker_died", {"status": status, "lived_s": round(lived_s, 3)})
            await asyncio.sleep(_pause_s(failures))

    async def _live(self) -> int:
        """Run one worker to its end and return its exit status, negative for a signal."""
        pid = self._spawn()
        self.pid = pid
        self._on_event("worker_started", {"pid": pid})
        ending = asyncio.create_task(_end_of(pid))
        watching = asyncio.create_task(self._watch(pid, ending))
        try:
            return await asyncio.shield(ending)
        except asyncio.CancelledError:
            await _terminate(pid, ending)
            raise
        finally:
            watching.cancel()
            self.pid = None

    async def _watch(self, pid: int, ending: asyncio.Task[int]) -> None:
        """Kill a worker that hangs; SIGKILL, because one that is stopped hears nothing else."""
        silent_s = await self._watchdog.silence()
        if not ending.done():
            self._on_event("worker_hung", {"pid": pid, "silent_s": round(silent_s, 3)})
            os.kill(pid, signal.SIGKILL)

    def _spawn(self) -> int:
        assert self._lifeline is not None
        inherited = [
            (os.POSIX_SPAWN_DUP2, self._lifeline[0], 0),
            *(
                (os.POSIX_SPAWN_DUP2, each.fileno(), _FIRST_DESCRIPTOR + place)
                for place, each in enumerate(self._sockets)
            ),
        ]
        environment = {
            "OPENBLAS_NUM_THREADS": "1",  # its threads cost memory and do nothing here
            **os.environ,
            **self._watchdog.environment,
            "LISTEN_FDS": str(len(self._sockets)),
            "LISTEN_FDNAMES": "inference:control",
        }
        environment.pop("LISTEN_PID", None)
        # -I: whatever folder this runs in, its files do not take the place of ours.
        arguments = [self._python, "-I", "-m", "agent.inference.worker"]
        arguments += ["--state-dir", str(self._state_dir), "--until-stdin-closes"]
        return os.posix_spawn(
            self._python,
            arguments,
            environment,
            file_actions=inherited,
            # Ctrl-C at a terminal is the core's to hear: it ends the worker in order.
            setpgroup=0,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
        )


def _pause_s(failures: int) -> float:
    """Seconds until the next start: none after one death, longer when it keeps dying."""
    if failures <= 1:
        return 0.0
    doublings = max(0, failures - _PATIENT_DEATHS)
    return float(min(_RESTART_S_MIN * 2**doublings, _RESTART_S_MAX))


def _bind(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise ConfigInvalid(
            f"the socket path {path} is longer than {_PATH_BYTES_MAX} bytes",
            hint="Give a shorter --run-dir.",
        )
    path.unlink(missing_ok=True)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Far from the numbers that the child expects, so that handing them down never clashes.
    high = fcntl.fcntl(plain.fileno(), fcntl.F_DUPFD_CLOEXEC, 64)
    plain.close()
    listening = socket.socket(fileno=high)
    try:
        listening.bind(str(path))
        path.chmod(mode)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _unbind(listening: socket.socket) -> None:
    path = Path(listening.getsockname())
    listening.close()
    with suppress(OSError):
        path.unlink(missing_ok=True)


async def _end_of(pid: int) -> int:
    """Wait for a child without blocking the loop (pidfd_open(2)) and return its exit status."""
    descriptor = os.pidfd_open(pid)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return _reap(pid)


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _terminate(pid: int, ending: asyncio.Task[int]) -> None:
    with suppress(ProcessLookupError):  # it may have ended in this moment
        os.kill(pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_S_MAX):
            await asyncio.shield(ending)
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        await ending
