"""The inference worker's process: inherited sockets, composition, orderly end.

    LISTEN_FDS=2 LISTEN_FDNAMES=inference:control python -m agent.inference.worker --state-dir DIR

Sockets come as under sd_listen_fds(3), by name: any number for the endpoint, one for control. Who
started the worker, systemd or the core, hears its heartbeat (`agent.notify`). The worker serves
what the slots' pointers name and records into the spool, without the core's help.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import secrets
import signal
import socket
import stat
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

import uvicorn

from agent import locks, log
from agent.inference.control_server import ControlServer
from agent.inference.guarded import Guard
from agent.inference.heartbeat import Heartbeat
from agent.inference.protocol import Endpoint
from agent.inference.registry import Registry
from agent.inference.settings import Settings, load
from agent.notify import Notifier
from agent.store import buffer
from agent.store.buffer import Buffer
from agent.telemetry.feedback import Feedback
from agent.telemetry.recorder import Pace, Recorder
from firmware_bundles import durable
from firmware_bundles.errors import ConfigInvalid, DeviceError, ShoalError

SPOOL: Final = "spool"
BUFFER_NAME: Final = "buffer.db"
LOCK: Final = "lock"
ERASE: Final = "erase"  # a mark: what lies beside it is to be erased

_FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
_DRAIN_S_MAX: Final = 2
_LOCK_S_MAX: Final = 10.0
_FILES_MAX: Final = 4096


def event(name: str, /, **facts: object) -> None:
    """Write one line of the worker's log."""
    log.write("worker", name.replace("_", "-"), facts)


class _Server(uvicorn.Server):
    """Leaves signals to this module: what was answered is sealed after the last answer."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._ending = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether to take no more requests, and to finish those that are there."""
        return self._ending.is_set()

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        if value:
            self._ending.set()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own loop looks for it ten times a second."""
        await self._ending.wait()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class Sockets(NamedTuple):
    """What a worker listens on: any number of sockets of the endpoint, and one for the core."""

    inference: list[socket.socket]
    control: socket.socket


def inherited(environ: Mapping[str, str]) -> Sockets:
    """Return the listening sockets that this process was started with.

    Raises ConfigInvalid when some are missing, or they are no sockets.
    """
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    count = environ.get("LISTEN_FDS", "0")
    if environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()) or not count.isdigit():
        count = "0"
    found: dict[str, list[socket.socket]] = {}
    for descriptor, name in zip(range(_FIRST_DESCRIPTOR, _FIRST_DESCRIPTOR + int(count)), names):  # noqa: B905 - more sockets than names are possible
        try:
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
        except OSError:
            is_socket = False
        if not is_socket:
            raise ConfigInvalid(f"descriptor {descriptor} ({name}) is no inherited socket")
        os.set_inheritable(descriptor, False)
        found.setdefault(name, []).append(socket.socket(fileno=descriptor))
    if not {"inference", "control"} <= set(found):
        raise ConfigInvalid(
            "the sockets 'inference' and 'control' were not handed down (LISTEN_FDS)",
            hint="The worker is started by the agent or by its systemd unit.",
        )
    return Sockets(found["inference"], found["control"][0])


async def serve(
    state_dir: Path,
    sockets: Sockets,
    settings: Settings,
    notifier: Notifier,
    *,
    watch_stdin: bool,
) -> None:
    """Serve until SIGTERM, SIGINT or, with `watch_stdin`, the end of standard input."""
    asyncio.get_running_loop().set_exception_handler(log.unhandled("worker"))
    logging.getLogger("uvicorn").addHandler(log.Lines("worker"))
    spool = state_dir / SPOOL
    spool.mkdir(parents=True, exist_ok=True)
    # A second worker would take this one's journal for a dead one's.
    lock = locks.hold(spool / LOCK, "worker", patience_s=_LOCK_S_MAX)
    if (spool / ERASE).exists():
        event("spool_erased", files=empty(spool))
    if buffer.ensure(spool / BUFFER_NAME):
        event("buffer_damaged", kept=f"{BUFFER_NAME}.damaged")
    sealing, reading = (Buffer(spool / BUFFER_NAME, settings.buffer_bytes_max) for _ in range(2))
    pace = Pace(
        flush_s=settings.flush_ms / 1000,
        segment_age_s=settings.segment_age_s,
        window_age_s=settings.window_age_s,
        journal_bytes_max=settings.journal_bytes_max,
    )
    recorder = Recorder(spool, sealing, secrets.token_hex(8), pace, event)
    guard = Guard(spool, event)
    guard.listen()
    registry = Registry(state_dir / "slots", recorder, guard, event)
    registry.start()
    heartbeat = Heartbeat(registry, guard.crumbs, event, notifier.watchdog_s)
    feedback = Feedback(recorder, reading)
    endpoint = Endpoint(registry, recorder, feedback, metadata.version("shoal"), event)
    server = _server(endpoint)

    def erase() -> None:
        durable.write(spool / ERASE, b"")
        server.should_exit = True

    control = ControlServer(state_dir, registry, recorder, reading, event, erase=erase)

    stopping = asyncio.Event()
    recording = asyncio.create_task(recorder.run(stopping))
    notifier.watch(lambda: "the recorder ended" if recording.done() else heartbeat.fault())
    tasks = [asyncio.create_task(notifier.beat()), asyncio.create_task(heartbeat.run())]
    await control.start(sockets.control)
    _end_on_signals(server, notifier, watch_stdin=watch_stdin)
    gc.collect()
    gc.freeze()
    event("ready", incarnation=recorder.incarnation, pid=os.getpid())
    notifier.ready(f"serves {', '.join(registry.serving) or 'no model yet'}")
    await server.serve(sockets=sockets.inference)
    await control.close()
    await registry.close()
    stopping.set()
    await recording
    for task in tasks:
        task.cancel()
    guard.close()
    sealing.close()
    reading.close()
    os.close(lock)
    event("stopped", incarnation=recorder.incarnation)


def empty(spool: Path) -> int:
    """Remove all that is recorded in the spool, the mark that asks for it last; return the count.

    Raises OSError.
    """
    kept = {LOCK, ERASE}
    recorded = [path for path in spool.iterdir() if path.name not in kept]
    for path in recorded:
        path.unlink()
    durable.sync_directory(spool)
    (spool / ERASE).unlink(missing_ok=True)
    durable.sync_directory(spool)
    return len(recorded)


def _server(endpoint: Endpoint) -> _Server:
    config = uvicorn.Config(
        endpoint,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        date_header=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_DRAIN_S_MAX,
    )
    return _Server(config)


def _end_on_signals(server: _Server, notifier: Notifier, *, watch_stdin: bool) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        notifier.stopping()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)

    def look() -> None:
        if not os.read(0, 1024):
            loop.remove_reader(0)
            end()

    if watch_stdin:
        loop.add_reader(0, look)


def _limit(settings: Settings) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES_MAX if most == resource.RLIM_INFINITY else min(_FILES_MAX, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    if settings.memory_bytes_max:
        limit = settings.memory_bytes_max
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> int:
    """Run the worker; return its exit status."""
    import uvloop

    parser = argparse.ArgumentParser(prog="agent.inference.worker")
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--until-stdin-closes", action="store_true")
    options = parser.parse_args()
    # Predictions are nobody else's business; whether the group may write, the unit's UMask says.
    os.umask(os.umask(0o027) | 0o007)
    notifier = Notifier.from_environment(os.environ)
    try:
        settings = load(os.environ)
        _limit(settings)
        sockets = inherited(os.environ)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                serve(
                    options.state_dir,
                    sockets,
                    settings,
                    notifier,
                    watch_stdin=options.until_stdin_closes,
                )
            )
    except ShoalError as error:
        event("failed", code=error.code, why=error.message, hint=error.hint or None)
        return 1
    except Exception as error:  # noqa: BLE001 - whoever reads the log gets a line, whatever it was
        event("failed", code=DeviceError.code, why=repr(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
