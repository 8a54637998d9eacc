"""The inference worker's process: inherited sockets, composition, orderly end.

    LISTEN_FDS=2 LISTEN_FDNAMES=inference:control python -m agent.inference.worker --state-dir DIR

Sockets come as under sd_listen_fds(3), by name: any number for the endpoint, one for control. Who
started the worker, systemd or the core, hears its heartbeat (`agent.notify`). The worker serves
what the slots' pointers name and records into the spool, without the core's help.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from agent import locks, log
from agent.inference import served
from agent.inference.acceleration import Acceleration
from agent.inference.control_server import ControlServer
from agent.inference.guarded import Guard
from agent.inference.heartbeat import Heartbeat
from agent.inference.http import HttpLimits, Server
from agent.inference.protocol import Endpoint, EndpointLimits
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
_M_TRIM_THRESHOLD: Final = -1
_M_ARENA_MAX: Final = -8
_M_MMAP_THRESHOLD: Final = -3
_TRIM_BYTES: Final = 2 * 1024 * 1024
_MMAP_BYTES: Final = 1024 * 1024
# How long a request may have to wait for Python code of the sealing thread: not for 5 ms.
_SWITCH_S: Final = 0.0002


def event(name: str, /, **facts: object) -> None:
    """Write one line of the worker's log."""
    log.write("worker", name.replace("_", "-"), facts)


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
    spool = state_dir / SPOOL
    spool.mkdir(parents=True, exist_ok=True)
    # A second worker would take this one's journal for a dead one's.
    lock = locks.hold(spool / LOCK, "worker", patience_s=_LOCK_S_MAX)
    if (spool / ERASE).exists():
        event("spool_erased", files=empty(spool))
    sealing, reading = _open_buffer(spool / BUFFER_NAME, settings.buffer_bytes_max)
    recorder = Recorder(spool, sealing, os.urandom(8).hex(), _pace(settings), event)
    guard = Guard(spool, event)
    guard.listen()
    load_model = partial(
        served.load,
        interpreters=settings.interpreters or os.cpu_count() or 1,
        threads=settings.threads,
    )
    registry = Registry(state_dir / "slots", recorder, guard, event, load_model)
    registry.start()
    heartbeat = Heartbeat(registry, guard.crumbs, event, notifier.watchdog_s)
    acceleration = Acceleration(state_dir, spool, registry, event)
    endpoint = _endpoint(settings, registry, recorder, reading)
    server = _server(endpoint, settings, recorder.write)
    ending = asyncio.Event()

    def erase() -> None:
        durable.write(spool / ERASE, b"")
        ending.set()

    control = ControlServer(state_dir, registry, recorder, reading, event, erase=erase)

    stopping = asyncio.Event()
    recording = asyncio.create_task(recorder.run(stopping))
    notifier.watch(lambda: "the recorder ended" if recording.done() else heartbeat.fault())
    beating = [asyncio.create_task(each) for each in (notifier.beat(), heartbeat.run())]
    accelerating = asyncio.create_task(acceleration.run())
    await control.start(sockets.control)
    _end_on_signals(ending, notifier, watch_stdin=watch_stdin)
    gc.collect()
    gc.freeze()
    event("ready", incarnation=recorder.incarnation, pid=os.getpid())
    notifier.ready(f"serves {', '.join(registry.serving) or 'no model yet'}")
    await server.start(sockets.inference)
    await ending.wait()
    await server.close(_DRAIN_S_MAX)
    await control.close()
    accelerating.cancel()
    acceleration.close()
    await registry.close()
    stopping.set()
    await recording
    for task in beating:
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


def _open_buffer(path: Path, bytes_max: int) -> tuple[Buffer, Buffer]:
    """Return a connection for the sealing thread and one for the loop's."""
    if buffer.ensure(path):
        event("buffer_damaged", kept=f"{BUFFER_NAME}.damaged")
    sealing, reading = (Buffer(path, bytes_max) for _ in range(2))
    sealing.set_quota(bytes_max)
    return sealing, reading


def _pace(settings: Settings) -> Pace:
    return Pace(
        flush_s=settings.flush_ms / 1000,
        segment_age_s=settings.segment_age_s,
        window_age_s=settings.window_age_s,
        journal_bytes_max=settings.journal_bytes_max,
        predictions_share=settings.predictions_share,
    )


def _endpoint(
    settings: Settings, registry: Registry, recorder: Recorder, reading: Buffer
) -> Endpoint:
    limits = EndpointLimits(
        threads=settings.interpreters or os.cpu_count() or 1,
        waiting_max=settings.waiting_max,
        answer_s_max=settings.answer_s_max,
        body_bytes_max=settings.body_bytes_max,
        compress_bytes_min=settings.compress_bytes_min,
    )
    feedback = Feedback(recorder, reading)
    return Endpoint(registry, recorder, feedback, limits, event)


def _server(endpoint: Endpoint, settings: Settings, settle: Callable[[], None]) -> Server:
    limits = HttpLimits(
        connections_max=settings.connections_max,
        body_bytes_max=settings.body_bytes_max,
        bodies_bytes_max=settings.bodies_bytes_max,
        request_s_max=settings.request_s_max,
        idle_s_max=settings.idle_s_max,
    )
    return Server(endpoint, limits, settle)


def _end_on_signals(ending: asyncio.Event, notifier: Notifier, *, watch_stdin: bool) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        notifier.stopping()
        ending.set()

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


def _return_memory_early() -> None:
    """Let the C library keep one heap, and give back what is free at its end (mallopt(3)).

    By default each thread gets a heap, and less and less of it is given back. The image of a
    request is not mapped anew for each copy of it: that was a tenth of a small network's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's own
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


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
        _return_memory_early()
        sys.setswitchinterval(_SWITCH_S)
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
