"""The agent's process: one lock, the worker, and then the core. Nothing else.

The worker starts first and serves by itself, whatever else is wrong with this device. So what it
needs is all that is imported here: the rest of the program is read while the worker starts.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

from agent import identity as identities
from agent import locks, log
from agent.deployment import slots
from agent.inference.supervisor import CONTROL_SOCKET, Supervisor
from agent.inference.worker_client import WorkerClient
from agent.notify import Notifier
from firmware_bundles.errors import NotEnrolled

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from agent.config import Config

ResultT = TypeVar("ResultT")


async def run(config: Config) -> None:
    """Run the core until SIGTERM or SIGINT.

    Raises NotEnrolled, DeviceError where another agent runs, and what else ends it at once.
    """
    if not slots.families(config.state_dir / "slots"):  # else there is something to serve
        _check_enrolled(config.state_dir)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.unhandled("core"))
    notifier = Notifier.from_environment(os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, notifier, stopping)
    async with AsyncExitStack() as stack:
        # Another agent's sockets must not be taken from it.
        stack.callback(os.close, locks.hold(config.state_dir / locks.AGENT_LOCK, "agent"))
        identities.sweep(config.state_dir)
        worker = await _worker(config, stack)
        stack.callback(asyncio.create_task(notifier.beat()).cancel)
        notifier.ready("starting")
        await asyncio.sleep(0)  # now the worker is started: nobody waits for what follows
        from agent import core, metering
        from agent.children import Children
        from agent.local_actions import STATE_NAME

        identity = await _until(stopping, core.load_identity(config.state_dir, config.key_file))
        if identity is None:
            return
        children = Children(s_max=config.task_s_max)
        stack.push_async_callback(children.stop)
        state = await _until(stopping, core.open_state(config.state_dir / STATE_NAME, children))
        if state is None:
            return
        stack.callback(state.close)
        usage = metering.open_usage(config.state_dir / metering.NAME)
        stack.callback(usage.close)
        await core.Core(config, identity, state, children, worker, usage, notifier).run(stopping)
    log.event("stopped")


def _check_enrolled(state_dir: Path) -> None:
    try:
        identities.check_enrolled(state_dir)
    except NotEnrolled:
        if state_dir.is_dir():
            identities.sweep(state_dir)  # of a device that was interrupted while it left
        raise


def _end(notifier: Notifier, stopping: asyncio.Event) -> None:
    notifier.stopping()
    stopping.set()


async def _worker(config: Config, stack: AsyncExitStack) -> WorkerClient:
    """Start the worker, unless it is a unit of its own, and return how to speak to it."""
    path = config.run_dir / CONTROL_SOCKET
    if config.worker == "unit":
        return WorkerClient(path)
    supervisor = Supervisor(
        config.state_dir,
        config.run_dir,
        on_event=_log_worker,
        watchdog_s=config.worker_watchdog_s,
    )
    stack.push_async_callback(supervisor.stop)
    await supervisor.start()
    return WorkerClient(path, lambda: supervisor.deaths, supervisor.died)


async def _until(stopping: asyncio.Event, work: Awaitable[ResultT]) -> ResultT | None:
    task = asyncio.ensure_future(work)
    ended = asyncio.ensure_future(stopping.wait())
    await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if task.done():
        return await task
    task.cancel()
    return None


def _log_worker(name: str, facts: dict[str, object]) -> None:
    log.event(name.replace("_", "-"), program="core", **facts)
