"""What is done about deaths in this process: breadcrumbs are left, inputs that killed refused.

What deaths mean is `deaths`' affair; what the core does about a model, its own.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TextIO

from agent.inference import breadcrumbs, deaths, losses
from agent.inference.backends import Backend
from agent.inference.breadcrumbs import Act, Breadcrumbs, Lane
from agent.inference.deaths import Register
from agent.inference.quantization import Stored
from firmware_bundles.errors import InputRefused


class GuardedBackend:
    """One interpreter with its lane. Raises InputRefused beside what the backend raises.

    Each of a pool has its own, and the CPU behind an accelerator. It holds the lock: an input that
    waits is not in flight, and is not blamed for a death.
    """

    def __init__(
        self,
        backend: Backend,
        crumbs: Breadcrumbs,
        refused: frozenset[bytes],
        *,
        family: str,
        model: str,
    ) -> None:
        self.runtime = backend.runtime
        self.delegate = backend.delegate
        self._backend = backend
        self._refused = refused
        self._lock = threading.Lock()
        self._lane = crumbs.lane_of(self, family, model)

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Run the model, known to be at this input meanwhile."""
        digest = breadcrumbs.digest(inputs)
        if digest in self._refused:
            raise InputRefused(
                f"the input {digest.hex()[:16]} took the inference worker down twice and is not "
                "given to this model any more"
            )
        with self._lock:
            self._lane.begin(Act.INVOKING, digest)
            try:
                return self._backend.run(inputs)
            finally:
                self._lane.end()


class Guard:
    """The breadcrumbs of this process, and the deaths of those before it, in the spool."""

    def __init__(self, spool: Path, on_event: Callable[..., None]) -> None:
        self.crumbs = Breadcrumbs(spool / breadcrumbs.NAME)
        self._register = Register(spool)
        now = time.time()
        found = deaths.traced(
            self.crumbs.left,
            now,
            deaths.last_signal(spool),
            is_accelerated=bool(losses.load(spool).in_use),
        )
        self._register.add(found, now)
        for each in found:
            on_event(
                "death_traced",
                family=each.family,
                at=each.act.name.lower(),
                input=each.input[:16] or None,
                signal=each.signal or None,
            )
        self._last_words_path = spool / deaths.LAST_WORDS
        self._last_words: TextIO | None = None
        self._hung: set[str] = set()

    def listen(self) -> None:
        """Let this process write which signal ends it."""
        with suppress(OSError):
            self._last_words = self._last_words_path.open("w")
            faulthandler.enable(self._last_words, all_threads=False)

    def close(self) -> None:
        """Forget what was in flight: this process ends in order."""
        self.crumbs.clear()
        if self._last_words is not None:
            faulthandler.disable()
            self._last_words.close()

    def wrap(self, backend: Backend, family: str, model: str) -> GuardedBackend:
        """Return the backend of a model by its digest, guarded. Raises ModelUnusable."""
        refused = deaths.refused(self._register.deaths, model)
        return GuardedBackend(backend, self.crumbs, refused, family=family, model=model)

    def loading(self, act: Act, family: str, model: str) -> AbstractContextManager[None]:
        """Note while a model is loaded that a death then is a death at that."""
        return self.crumbs.loading(act, family, model)

    def lanes(self) -> frozenset[Lane]:
        """Return the lanes that are in use, to `give_up` later ones."""
        return self.crumbs.lanes()

    def give_up(self, model: str, before: frozenset[Lane]) -> None:
        """Note that a model hangs while it is loaded: nobody waits for it, or tries it again."""
        self._hung.add(model)
        for lane in self.crumbs.lanes() - before:
            lane.is_given_up = True

    def loaded(self, model: str) -> None:
        """Note that a model could be loaded: earlier deaths at it do not count any more."""
        self._register.loaded(model)

    def may_start(self, model: str) -> bool:
        """Return whether to begin with this model: not where loading it ended the worker before."""
        known = self._register.deaths
        at_start = deaths.at_loading(known, model, Act.STARTING)
        at_swap = deaths.at_loading(known, model, Act.SWAPPING)
        return at_start < deaths.START_DEATHS_MAX and at_swap == 0

    def may_swap(self, model: str) -> bool:
        """Return whether to try once more to take over this model."""
        if model in self._hung:
            return False
        died = deaths.at_loading(self._register.deaths, model, Act.SWAPPING)
        return died < deaths.SWAP_DEATHS_MAX

    def killers(self, model: str) -> int:
        """Return at how many different inputs this model died lately."""
        return deaths.killers(self._register.deaths, model, time.time())

    def repeated(self, model: str) -> int:
        """Return how many deaths were at an input that had killed before."""
        return deaths.repeated(self._register.deaths, model)

    def signal(self, model: str) -> str:
        """Return the signal of this model's latest death at an input, empty if unknown."""
        mine = (each for each in self._register.deaths if each.model == model and each.input)
        return next((each.signal for each in sorted(mine, key=lambda e: -e.time)), "")
