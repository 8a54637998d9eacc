"""Whether each model still answers: an inference that does not end, or a model that answers wrong.

What is found keeps the worker's heartbeat silent, so that whoever watches it replaces the worker.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable
from typing import Final

from agent.inference.breadcrumbs import Breadcrumbs
from agent.inference.registry import Registry
from agent.inference.served import ServedModel
from firmware_bundles.errors import ShoalError

_PERIOD_S: Final = 10.0
_INFERENCE_S_MAX: Final = 30.0


class Heartbeat:
    """Lets models that had nothing to answer answer a golden vector; `fault()` says what is wrong.

    An inference may take as long as the manager's patience lasts.
    """

    def __init__(
        self,
        registry: Registry,
        crumbs: Breadcrumbs,
        on_event: Callable[..., None],
        watchdog_s: float | None,
    ) -> None:
        self._registry = registry
        self._crumbs = crumbs
        self._on_event = on_event
        self._limit_s = watchdog_s or _INFERENCE_S_MAX
        self._wrong: dict[ServedModel, str] = {}
        # Not the models themselves: one that made place is to be freed.
        self._answered: dict[str, tuple[weakref.ref[ServedModel], int]] = {}

    def fault(self) -> str:
        """Return what does not live, empty if all does."""
        family, seconds = self._crumbs.longest(time.monotonic())
        if seconds > self._limit_s:
            return f"the model {family} is at one input for {seconds:.0f} seconds"
        serving = {each.model for each in self._registry.serving.values()}
        return next((why for model, why in self._wrong.items() if model in serving), "")

    async def run(self) -> None:
        """Look at all models again and again, until cancelled."""
        while True:
            await asyncio.sleep(min(_PERIOD_S, self._limit_s / 3))
            for family, serving in list(self._registry.serving.items()):
                await self._look(family, serving.model)

    async def _look(self, family: str, model: ServedModel) -> None:
        before = self._answered.get(family)
        self._answered[family] = weakref.ref(model), model.answered
        if before is not None and before[0]() is model and before[1] != model.answered:
            return
        try:
            await asyncio.to_thread(model.check)
        except ShoalError as error:
            self._wrong = {model: f"the model {family} answers wrong: {error.message}"}
            self._on_event("model_wrong", family=family, code=error.code, why=error.message)
