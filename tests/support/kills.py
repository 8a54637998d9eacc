"""Kills agents in the field with SIGKILL, again and again, until each update has ended.

Each device has a thread of its own: order a version, kill until the update is over, hold the end
against the promises, go on with the next. Kills come at random instants, or are aimed at the moment
in which a deployment enters a state.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent import events, local_control
from agent.local_control import RollBack
from firmware_bundles.errors import ShoalError
from firmware_bundles.wire.messages import DeploymentState, Policy
from support.field import BAD, FAMILY, NEXT, Agent, Director, wait_until

S = DeploymentState
VICTIMS = ("core", "worker", "task")
_SHARES = (60, 25, 15)
_PAUSE_S_MAX = 1.0
_LATE_S_MAX = 0.03  # how long after the entry of a state an aimed kill may come
_SETTLED_S = 0.05  # what a dead process had written reaches the proxy
_REVERTED = frozenset({S.ROLLING_BACK, S.ROLLED_BACK})


class Aim(NamedTuple):
    """A kill of `victim` when a deployment enters `state`."""

    state: DeploymentState
    victim: str


def every_aim() -> list[Aim]:
    """One of each: a new state cannot lack its kills."""
    return [Aim(state, victim) for state in S for victim in VICTIMS]


@dataclass
class Outcome:
    """What was seen, over all devices."""

    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    fetched_again: int = 0
    excess_per_kill_max: float = 0.0
    away_s: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def updates(self) -> int:
        """How many updates have ended."""
        return sum(self.ends.values())


def at_random(
    director: Director,
    agents: Sequence[Agent],
    kills: int,
    seed: int,
    *,
    s_max: float = float("inf"),
    on_kill: Callable[[int], None] = lambda _count: None,
) -> Outcome:
    """Kill so often, at random instants, or for so long; `on_kill` hears how many there were."""
    budget = _Budget(kills, time.monotonic() + s_max, on_kill)
    return _run(agents, lambda agent, place: _Killer(agent, director, seed + place).spend(budget))


def aimed(director: Director, agents: Sequence[Agent], aims: Sequence[Aim], seed: int) -> Outcome:
    """Carry out every aim, shared among the devices."""
    waiting = list(aims)
    turn = threading.Lock()

    def work(agent: Agent, place: int) -> Outcome:
        killer = _Killer(agent, director, seed + place)
        while True:
            with turn:
                if not waiting:
                    return killer.outcome
                aim = waiting.pop(0)
            killer.aim(aim)

    return _run(agents, work)


def _run(agents: Sequence[Agent], work: object) -> Outcome:
    assert callable(work)
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []

    def guarded(agent: Agent, place: int) -> None:
        try:
            outcomes.append(work(agent, place))
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the run's
            failures.append(error)

    began = time.monotonic()
    threads = [
        threading.Thread(target=guarded, args=(agent, place), daemon=True)
        for place, agent in enumerate(agents)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    total = Outcome(seconds=time.monotonic() - began)
    for each in outcomes:
        total.kills += each.kills
        total.ends += each.ends
        total.broken += each.broken
        total.fetched_again += each.fetched_again
        total.excess_per_kill_max = max(total.excess_per_kill_max, each.excess_per_kill_max)
        total.away_s += each.away_s
    return total


class _Budget:
    """The kills that are left, for all devices together."""

    def __init__(self, kills: int, ends_at: float, on_kill: Callable[[int], None]) -> None:
        self._kills = kills
        self._ends_at = ends_at
        self._on_kill = on_kill
        self._taken = 0
        self._turn = threading.Lock()

    def take(self) -> bool:
        """Whether one more may be done."""
        with self._turn:
            if self.is_spent:
                return False
            self._taken += 1
            self._on_kill(self._taken)
            return True

    @property
    def is_spent(self) -> bool:
        """Whether none is left, or no time."""
        return self._taken >= self._kills or time.monotonic() >= self._ends_at


class _Killer:
    """Works on one device."""

    def __init__(self, agent: Agent, director: Director, seed: int) -> None:
        self.outcome = Outcome()
        self._agent = agent
        self._director = director
        self._random = random.Random(seed)
        self._serving = agent.serving_version()
        self._stored: set[str] = set()
        self._kills = 0

    def spend(self, budget: _Budget) -> Outcome:
        """Update and kill until the budget is spent."""
        while not budget.is_spent:
            version = BAD if self._random.random() < 0.1 else self._next()
            generation = self._order(version, probation_s=self._random.choice((0.2, 0.6)))
            while not self._agent.has_ended(generation):
                time.sleep(self._random.uniform(0, _PAUSE_S_MAX))
                if self._agent.has_ended(generation) or not budget.take():
                    break
                (victim,) = self._random.choices(VICTIMS, _SHARES)
                self._kill(victim)
            self._end(generation)
        return self.outcome

    def aim(self, aim: Aim) -> None:
        """Let a deployment come to a state, kill then, and see how it ends."""
        heard = self._agent.log.stat().st_size
        version = BAD if aim.state is S.FAILED else self._next()
        probation_s = 60.0 if aim.state in _REVERTED else 0.3
        generation = self._order(version, probation_s=probation_s)
        if aim.state in _REVERTED:
            self._await_event(heard, S.PROBATION)
            threading.Thread(target=self._revert).start()
        self._await_event(heard, aim.state)
        time.sleep(self._random.uniform(0, _LATE_S_MAX))
        self._kill(aim.victim)
        if aim.state in _REVERTED and not self._agent.has_ended(generation):
            self._revert_until_ended(generation)
        self._end(generation)

    def _next(self) -> str:
        return NEXT[self._serving or "1"]

    def _order(self, version: str, *, probation_s: float) -> int:
        proxy = self._agent.proxy
        self._stored, self._kills = set(), 0
        proxy.asked.clear()
        proxy.delivered.clear()
        attempts_max = self._random.choice((3, 10))
        policy = Policy(probation_s=probation_s, self_test_s_max=15.0, attempts_max=attempts_max)
        return self._director.order(self._agent.name, version, policy).generation

    def _kill(self, victim: str) -> None:
        if not self._agent.kill(victim):
            victim = "core"  # no such process now
            self._agent.kill(victim)
        began = time.monotonic()
        self.outcome.kills[victim] += 1
        self._kills += victim == "core"
        if victim == "core":
            time.sleep(_SETTLED_S)
            self._count_fetched_again()
            self._stored = self._agent.stored_chunks()
            self._agent.proxy.asked.clear()
            began = time.monotonic()
            self._agent.start()
        if self._random.random() < 0.8:  # else the next kill may come while it is starting
            self._agent.away_s()
            self.outcome.away_s.append(time.monotonic() - began)

    def _count_fetched_again(self) -> None:
        self.outcome.fetched_again += len(self._stored & set(self._agent.proxy.asked))

    def _end(self, generation: int) -> None:
        agent = self._agent
        wait_until(lambda: agent.has_ended(generation), f"{agent.name} ends {generation}", 90)
        agent.away_s()
        self._count_fetched_again()
        delivered = agent.proxy.delivered
        excess = sum(delivered.values()) - len(delivered)
        self.outcome.excess_per_kill_max = max(
            self.outcome.excess_per_kill_max, excess / max(1, self._kills)
        )
        record = agent.record()
        assert record is not None
        wrong = agent.broken_promises(self._serving)
        self.outcome.broken += [f"{agent.name} generation {generation}: {each}" for each in wrong]
        fault = record.fault.code if record.fault else ""
        self.outcome.ends[f"{record.state} {fault}".strip()] += 1
        self._serving = agent.serving_version()

    def _await_event(self, offset: int, state: DeploymentState) -> None:
        wanted = f"event={events.of_state(state)} ".encode()

        def is_told() -> bool:
            with self._agent.log.open("rb") as log:
                log.seek(offset)
                return wanted in log.read()

        wait_until(is_told, f"{self._agent.name} enters {state}")

    def _revert(self) -> None:
        try:
            local_control.ask(
                self._agent.run_dir / local_control.SOCKET_NAME, RollBack(family=FAMILY)
            )
        except ShoalError:
            return  # the core is being killed

    def _revert_until_ended(self, generation: int) -> None:
        """A rollback that was said and not yet stored is said again, as a person would."""
        while not self._agent.has_ended(generation):
            self._revert()
            time.sleep(0.1)


def seconds_of(quantile: float, values: Sequence[float]) -> float:
    """Return a quantile of durations."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
