"""Erases what a retired device holds of its owners: models first, predictions next.

Every step may be repeated, and a power cut asks for it: the order is on disk before anything is
touched, and the end is noted only when nothing is left. Files are removed, not overwritten: on
flash only an encrypted disk keeps a promise about what a removed file held.
"""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Final

from agent import log
from agent.deployment import slots
from agent.deployment.retirement import Phase
from agent.inference.control import Erase, Erasing, Unload
from firmware_bundles import durable
from firmware_bundles.errors import ShoalError, WorkerUnavailable

if TYPE_CHECKING:
    from pathlib import Path

    from agent.clock import Clock
    from agent.deployment.retirement import Retirement
    from agent.deployment.steps import Worker
    from agent.store.state import State

_RETRY_S_MIN: Final = 0.2
_RETRY_S_MAX: Final = 30.0
_ANSWER_S_MAX: Final = 10.0


async def erase(state_dir: Path, state: State, worker: Worker, clock: Clock) -> Retirement:
    """Erase until it is done, whatever fails meanwhile; return the retirement as it stands then."""
    retry_s = _RETRY_S_MIN
    while True:
        try:
            found = state.retirement()
            if found.phase is not Phase.ERASING:
                return found
            await _unload(state_dir / "slots", worker)
            for name in ("slots", "chunks"):
                _remove(state_dir / name)
            await _empty_spool(state, worker)
            done = state.retirement()._replace(phase=Phase.ERASED, finished=clock.now())
            state.save_retirement(done)
            log.event("erased", generation=done.generation, segments_lost=done.segments)
        except (ShoalError, OSError) as error:
            log.event("erasure-failed", reason=str(error))
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _RETRY_S_MAX)


async def _unload(root: Path, worker: Worker) -> None:
    """Let nothing serve; without pointers a worker that starts meanwhile serves nothing, too."""
    names = slots.families(root)
    for family in names:
        slots.unset(root, family)
    for family in {*names, *(await worker.status()).families}:
        await worker.ask(Unload(family), _ANSWER_S_MAX)


async def _empty_spool(state: State, worker: Worker) -> None:
    """Let the worker erase what it recorded: it notes so, ends, and does it as it starts again."""
    answer = await worker.ask(Erase(), _ANSWER_S_MAX)
    if not isinstance(answer, Erasing):
        raise WorkerUnavailable(f"the inference worker answered {type(answer).__name__} to Erase")
    known = state.retirement()
    # After a power cut there is less to count than there was: the larger number is the true one.
    state.save_retirement(known._replace(segments=max(known.segments, answer.segments)))
    async with asyncio.timeout(_RETRY_S_MAX):
        while await _incarnation(worker) in {None, answer.incarnation}:  # noqa: ASYNC110 - another process
            await asyncio.sleep(_RETRY_S_MIN)


async def _incarnation(worker: Worker) -> str | None:
    try:
        return (await worker.status()).incarnation
    except WorkerUnavailable:
        return None


def _remove(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
        durable.sync_directory(folder.parent)
