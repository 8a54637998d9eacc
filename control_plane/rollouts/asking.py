"""Asks metric servers beside the executor, which reads only the last answer and its age.

Each query has a thread of its own that ends by itself, so a server that is slow delays its own
answer and nothing else. What an answer means is decided in `gates.metrics`.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.rollouts.evidence import Metric
    from control_plane.rollouts.gate_specs import MetricGate
    from control_plane.rollouts.model import Rollout
    from control_plane.store.rollouts import Rollouts

_LOG: Final = logging.getLogger(__name__)
ASKED_AT_ONCE_MAX: Final = 16


class Asking:
    """Looks after the queries of open rollouts. `ask` puts one, and has a deadline of its own."""

    def __init__(
        self,
        rollouts: Rollouts,
        ask: Callable[[MetricGate, float], Metric],
        clock: Callable[[], float],
        at_once_max: int = ASKED_AT_ONCE_MAX,
    ) -> None:
        self._at_once_max = at_once_max
        self._rollouts = rollouts
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way: dict[tuple[str, str], threading.Thread] = {}

    def tick(self) -> None:
        """Begin every query whose time has come; one that is under way is not put twice."""
        for rollout in self._rollouts.open():
            if rollout.gates.metrics:
                self._begin_due(rollout)

    def wait(self, timeout_s: float) -> bool:
        """Wait for what is under way, so long at most; return whether all of it ended."""
        ends = time.monotonic() + timeout_s
        for thread in self._threads():
            thread.join(max(ends - time.monotonic(), 0.0))
        return not self._threads()

    def _threads(self) -> list[threading.Thread]:
        with self._lock:
            return list(self._under_way.values())

    def _begin_due(self, rollout: Rollout) -> None:
        known = dict(self._rollouts.metrics(rollout))
        for gate in rollout.gates.metrics:
            before = known.get(gate.name)
            if before is None or self._clock() - before.at >= gate.every_s:
                self._begin(rollout, gate)

    def _begin(self, rollout: Rollout, gate: MetricGate) -> None:
        key = rollout.id, gate.name
        with self._lock:
            if key in self._under_way or len(self._under_way) >= self._at_once_max:
                return
            # A daemon: nobody waits for a foreign server at the end.
            thread = threading.Thread(target=self._put, args=(rollout, gate), daemon=True)
            self._under_way[key] = thread
            thread.start()

    def _put(self, rollout: Rollout, gate: MetricGate) -> None:
        try:
            found = self._ask(gate, self._clock())
            self._rollouts.keep_metric(rollout, gate.name, found)
        except Exception:  # noqa: BLE001 logged; it is asked again when its time has come
            _LOG.exception("metric is not known rollout=%s name=%s", rollout.id, gate.name)
        finally:
            with self._lock:
                del self._under_way[rollout.id, gate.name]
