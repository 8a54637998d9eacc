"""Moves serving models from the CPU to an accelerator, and sees them fall back. See `delegates`.

A model always serves on the CPU first. Beside that each delegate is tried in order, in a child;
the first that may serve is built in the worker, proved, and put in front of the CPU. What was lost
or refused is tried again after a pause. Whether it may serve is `verdicts`' affair, how long it is
held off `losses`'.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from agent.inference import breadcrumbs, delegates, losses, probe, verdicts
from agent.inference.cpu_backed import CpuBacked
from agent.inference.delegates import Delegate
from agent.inference.hosted import Hosted
from agent.inference.losses import Loss
from agent.inference.registry import Registry
from agent.inference.served import QUICK_US_MAX, ServedModel
from agent.inference.verdicts import Probe
from firmware_bundles.errors import ConfigInvalid, ModelUnusable, ShoalError

_LOOK_S_MAX: Final = 3600.0
_LOOK_S_MIN: Final = 0.05
_REASON_CHARS_MAX: Final = 8192


class Acceleration:
    """Works on what the registry serves; keeps its note of losses in the folder `spool`."""

    def __init__(
        self, state_dir: Path, spool: Path, registry: Registry, on_event: Callable[..., None]
    ) -> None:
        self._state_dir = state_dir
        self._spool = spool
        self._registry = registry
        self._on_event = on_event
        found = losses.load(spool)
        self._boot = breadcrumbs.boot_id()
        self._note = losses.after_death(found, time.time(), self._boot)
        if found.in_use:  # else the next death would be the accelerator's, too
            with suppress(OSError):
                losses.store(spool, self._note)
        # By family, digest and delegate: another version may be taken where this one was not.
        self._refused: dict[tuple[str, str, str], Loss] = {}
        self._fault = ""
        self._delegates: tuple[Delegate, ...] = ()
        try:
            self._delegates = delegates.load(state_dir)
        except ConfigInvalid as error:  # no reason not to serve
            self._fault = error.message
            on_event("delegates_invalid", code=error.code, why=error.message)

    async def run(self) -> None:
        """Accelerate until cancelled; nothing that goes wrong here ends it."""
        while True:
            self._registry.changed.clear()
            try:
                pause_s = await self._look()
            except Exception as error:  # noqa: BLE001 - the CPU serves on, and it is tried again
                self._on_event("acceleration_failed", error=repr(error))
                pause_s = _LOOK_S_MAX
            with suppress(TimeoutError):
                async with asyncio.timeout(max(pause_s, _LOOK_S_MIN)):
                    await self._registry.changed.wait()

    def close(self) -> None:
        """Note that this worker ends in order: no accelerator is to blame."""
        if self._note.in_use:
            with suppress(OSError):
                losses.store(self._spool, losses.Losses(lost=self._note.lost))

    async def _look(self) -> float:
        """Look at each family; return how long nothing is to be done, in seconds."""
        pauses = [_LOOK_S_MAX]
        for family, serving in sorted(self._registry.serving.items()):
            if isinstance(guarded := serving.model.backend, CpuBacked):
                pauses.append(await self._check(serving.model, guarded))
            else:
                pauses.append(await self._accelerate(family, serving.model))
        return min(pauses)

    async def _check(self, model: ServedModel, guarded: CpuBacked) -> float:
        """Hold an accelerator that serves to the CPU's answers: it may go wrong quietly."""
        pauses = [each.check_s for each in self._delegates if each.name == guarded.delegate]
        try:
            await asyncio.to_thread(probe.agree, model, guarded)
        except ShoalError as error:
            guarded.give_up(f"its answers became wrong: {error.message}")
        return min(pauses, default=_LOOK_S_MIN)

    async def _accelerate(self, family: str, model: ServedModel) -> float:
        """Put the first delegate that may in front of the CPU; return when to look again."""
        said, pauses = [self._fault] if self._fault else [], [_LOOK_S_MAX]
        self._release(family)
        for delegate in self._delegates:
            if not (reason := await self._try(family, model, delegate)):
                said.append(model.delegate_reason)
                model.delegate_reason = "; ".join(said)[:_REASON_CHARS_MAX]
                return delegate.check_s
            said.append(f"{delegate.name}: {reason}")
            loss = self._loss(family, model, delegate)
            pauses.append(losses.wait_s(loss, delegate.retry_s, time.time()))
        model.delegate_reason = "; ".join(said)[:_REASON_CHARS_MAX]
        return min(pauses)

    def _release(self, family: str) -> None:
        """Note that the model with an accelerator made place for one that has none yet."""
        for key in self._note.in_use:
            if key.startswith(f"{family}/"):
                self._write(losses.released(self._note, key))

    def _loss(self, family: str, model: ServedModel, delegate: Delegate) -> Loss | None:
        """Return the loss or refusal that holds a delegate off for longest."""
        found = (
            self._note.lost.get(_key(family, delegate)),
            self._refused.get((family, model.bundle.digest, delegate.name)),
        )
        now = time.time()
        return max(found, key=lambda each: losses.wait_s(each, delegate.retry_s, now))

    async def _try(self, family: str, model: ServedModel, delegate: Delegate) -> str:
        """Return why a delegate does not serve, or nothing when it does now."""
        loss = self._loss(family, model, delegate)
        if loss is not None and losses.wait_s(loss, delegate.retry_s, time.time()) > 0:
            return loss.reason
        model.delegate_reason = f"{delegate.name}: it is being probed"
        try:
            await self._adopt(family, model, delegate)
        except ShoalError as error:
            reason = error.message
        except OSError as error:
            reason = f"it cannot be started, or its use noted down: {error.strerror}"
        else:
            return ""
        place = (family, model.bundle.digest, delegate.name)
        self._refused[place] = losses.lose(self._refused.get(place), reason, time.time())
        self._on_event("delegate_refused", family=family, delegate=delegate.name, why=reason)
        return reason

    async def _adopt(self, family: str, model: ServedModel, delegate: Delegate) -> None:
        """Prove a delegate, and serve with it.

        Raises OSError and what `probe` and `hosted` raise, and then the CPU serves.
        """
        adopt = self._adopt_here if delegate.exclusive else self._adopt_apart
        guarded, found = await adopt(family, model, delegate)
        loop = asyncio.get_running_loop()
        # Not the model itself: who makes place is to be freed at once, its accelerator with it.
        lose = partial(self._lose, family, weakref.ref(model), delegate, found.cpu_latency_us)
        guarded.on_lost = lambda reason: _tell(loop, lose, reason)
        model.delegate_reason = what = f"{delegate.name} {verdicts.praise(found)}"
        model.is_quick = found.latency_us <= QUICK_US_MAX
        model.backend = guarded
        self._on_event("accelerated", family=family, delegate=delegate.name, what=what)

    async def _adopt_apart(
        self, _family: str, model: ServedModel, delegate: Delegate
    ) -> tuple[CpuBacked, Probe]:
        """Let the child that probed it go on, if its answers are right from here, too."""
        hosted = await asyncio.to_thread(Hosted, self._state_dir, model, delegate)
        try:
            found = await asyncio.to_thread(hosted.proved)
            _require(found, may_be_slower=delegate.may_be_slower)
            guarded = CpuBacked(hosted, model.backend)
            await asyncio.to_thread(probe.agree, model, guarded)
        except BaseException:
            hosted.close()
            raise
        return guarded, found

    async def _adopt_here(
        self, family: str, model: ServedModel, delegate: Delegate
    ) -> tuple[CpuBacked, Probe]:
        """Build it in this process: only one may open it, and it may have several models."""
        key = _key(family, delegate)
        self._write(losses.used(self._note, key, self._boot))
        try:
            examined = await asyncio.to_thread(probe.examine, model, delegate)
            _require(examined.probe, may_be_slower=delegate.may_be_slower)
        except BaseException:
            self._write(losses.released(self._note, key))
            raise
        return examined.guarded, examined.probe

    def _lose(
        self,
        family: str,
        failed: weakref.ref[ServedModel],
        delegate: Delegate,
        cpu_us: float,
        reason: str,
    ) -> None:
        """Note that an accelerator failed in service; the CPU has answered already."""
        serving = self._registry.serving.get(family)
        if serving is None or serving.model is not failed():
            return
        model = serving.model
        if not isinstance(model.backend, CpuBacked):
            return
        model.backend = model.backend.cpu
        model.is_quick = cpu_us <= QUICK_US_MAX
        model.delegate_reason = f"{delegate.name}: {reason}"[:_REASON_CHARS_MAX]
        self._on_event("delegate_lost", family=family, delegate=delegate.name, why=reason)
        note = losses.lost(self._note, _key(family, delegate), reason, time.time())
        try:
            self._write(note)
        except OSError:  # known here, at least
            self._note = note
        self._registry.changed.set()

    def _write(self, note: losses.Losses) -> None:
        losses.store(self._spool, note)
        self._note = note


def _key(family: str, delegate: Delegate) -> str:
    return f"{family}/{delegate.name}"


def _require(found: Probe, *, may_be_slower: bool) -> None:
    if reason := verdicts.refusal(found, may_be_slower=may_be_slower):
        raise ModelUnusable(reason)


def _tell(loop: asyncio.AbstractEventLoop, lose: Callable[[str], None], reason: str) -> None:
    with suppress(RuntimeError):  # the worker ends
        loop.call_soon_threadsafe(lose, reason)
