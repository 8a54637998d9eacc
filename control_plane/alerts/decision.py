"""When something becomes an alert, when it is told again, and when it is over: pure.

A signal says what is the matter now; an alert is what is kept of it. Each key has one alert at a
time, told once when it is raised, again while nobody acknowledged it, and once when it is over.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, NamedTuple

QUIET_S: Final = 600.0
RENOTIFY_S: Final = 86_400.0
_SEEN_SHARE: Final = 0.1


class Kind(StrEnum):
    """What is the matter."""

    CHANGE = "change"
    PREDICTION_DRIFT = "prediction_drift"
    MISSING = "missing"
    OUT_OF_RANGE = "out_of_range"
    COHORT_CHANGE = "cohort_change"
    SILENT = "silent"
    DROPPED = "dropped"
    PARKED = "parked"
    REFUSED = "refused"
    RETRAINING = "retraining"


class State(StrEnum):
    """Whether somebody took notice, and whether it is over."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Action(StrEnum):
    """What is told to others."""

    RAISED = "raised"
    REMINDED = "reminded"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


# A change went through its own quiet windows before its signal ends.
_SETTLED: Final = frozenset({
    Kind.CHANGE, Kind.PREDICTION_DRIFT, Kind.MISSING, Kind.OUT_OF_RANGE, Kind.COHORT_CHANGE,
})  # fmt: skip


class Signal(NamedTuple):
    """What is the matter now, and with what.

    `level` counts where something is counted (refused attempts, dropped rows): such a signal is
    there only while its count moves. None where the matter itself goes on.
    """

    kind: Kind
    summary: str
    device_id: str | None = None
    family: str | None = None
    model: str | None = None
    cohort: str | None = None
    about: str = ""
    level: int | None = None
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed

    @property
    def key(self) -> str:
        """What makes two signals one matter."""
        places = self.kind.value, self.cohort, self.device_id, self.family, self.about
        return "/".join(place or "" for place in places)


class Alert(NamedTuple):
    """A matter as it is kept; times in Unix seconds. `number` 0 has not been stored yet."""

    key: str
    kind: Kind
    state: State
    summary: str
    raised: float
    seen: float
    notified: float
    number: int = 0
    reminders: int = 0
    device_id: str | None = None
    family: str | None = None
    model: str | None = None
    cohort: str | None = None
    level: int | None = None
    details: dict[str, Any] = {}  # noqa: RUF012 - never changed
    acknowledged: float | None = None
    acknowledged_by: str | None = None
    note: str = ""
    resolved: float | None = None


class Rules(NamedTuple):
    """After how long a matter that is not seen is over, and when it is told again; seconds."""

    quiet_s: float = QUIET_S
    renotify_s: float = RENOTIFY_S


class Step(NamedTuple):
    """What follows: the alert as it is to be kept, and what others are told."""

    alert: Alert
    action: Action | None = None


def decide(alert: Alert | None, signal: Signal | None, now: float, rules: Rules) -> Step | None:
    """Say what follows from a signal, or from its absence; None if nothing does.

    `alert` is the latest of the signal's key, whether or not it is resolved.
    """
    is_there = signal is not None and _is_there(alert, signal)
    if alert is None or alert.state is State.RESOLVED:
        if signal is None or not is_there:
            return None
        return Step(_raised(signal, now), Action.RAISED)
    if signal is not None and is_there:
        return _seen_again(alert, signal, now, rules)
    quiet_s = 0.0 if alert.kind in _SETTLED else rules.quiet_s
    if now - alert.seen < quiet_s or now < alert.seen:
        return _reminded(alert, now, rules)
    over = alert._replace(state=State.RESOLVED, resolved=now, notified=now)
    return Step(over, Action.RESOLVED)


def acknowledge(alert: Alert, by: str, note: str, now: float) -> Step | None:
    """Take notice in somebody's name; None if that was done, or the matter is over."""
    if alert.state is not State.OPEN:
        return None
    taken = alert._replace(
        state=State.ACKNOWLEDGED, acknowledged=now, acknowledged_by=by, note=note, notified=now
    )
    return Step(taken, Action.ACKNOWLEDGED)


def _is_there(alert: Alert | None, signal: Signal) -> bool:
    if signal.level is None:
        return True
    known = alert.level if alert is not None else None
    # A count that fell began anew, with a new buffer say: what it holds now is new.
    return signal.level > 0 and signal.level != known


def _raised(signal: Signal, now: float) -> Alert:
    return Alert(
        key=signal.key,
        kind=signal.kind,
        state=State.OPEN,
        summary=signal.summary,
        raised=now,
        seen=now,
        notified=now,
        device_id=signal.device_id,
        family=signal.family,
        model=signal.model,
        cohort=signal.cohort,
        level=signal.level,
        details=signal.details,
    )


def _seen_again(alert: Alert, signal: Signal, now: float, rules: Rules) -> Step | None:
    told = alert._replace(summary=signal.summary, level=signal.level, details=signal.details)
    seen = told._replace(seen=now)
    if told == alert and now - alert.seen < _SEEN_SHARE * rules.quiet_s:
        return _reminded(seen, now, rules)  # not to write the same again at each look
    return _reminded(seen, now, rules) or Step(seen)


def _reminded(alert: Alert, now: float, rules: Rules) -> Step | None:
    if alert.state is not State.OPEN or now - alert.notified < rules.renotify_s:
        return None
    told = alert._replace(notified=now, reminders=alert.reminders + 1)
    return Step(told, Action.REMINDED)
