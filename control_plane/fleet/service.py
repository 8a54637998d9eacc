"""What a model did between two reports of a device: from counts that may begin anew. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

COUNT_MAX: Final = 2**31
"""More between two reports is cut: sums of what devices claim must stay numbers."""


class Said(NamedTuple):
    """A device's counts of the model that serves a family, and when (Unix seconds) they came.

    `answered` and `failed` begin anew with `since`, `deaths` and energy with the agent; None: not
    told. `joules` are of `measured_s` seconds.
    """

    model: str
    since: float
    answered: int
    failed: int | None
    deaths: int | None
    received: float
    joules: int | None = None
    measured_s: int | None = None


class Served(NamedTuple):
    """What happened since the report before: answers and failures; seconds and deaths in them.

    And what the machine used, in as many seconds as it told.
    """

    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    deaths: int = 0
    joules: int = 0
    measured_s: int = 0


def between(before: Said | None, now: Said) -> Served:
    """Return what happened between two reports of one family; nothing for what was not told.

    What a worker counted between its last report and its death is not known.
    """
    same = before if before is not None and before.model == now.model else None
    answered, failed = _answers(same, now)
    seconds, deaths = _deaths(same, now)
    return Served(answered, failed, seconds, deaths, *_energy(same, now))


def _answers(same: Said | None, now: Said) -> tuple[int, int]:
    if now.failed is None or (same is not None and same.failed is None):
        return 0, 0  # until both are told there is nothing to compare
    if same is None or same.failed is None or same.since != now.since:
        return _cut(now.answered), _cut(now.failed)
    return _cut(now.answered - same.answered), _cut(now.failed - same.failed)


def _deaths(same: Said | None, now: Said) -> tuple[float, int]:
    if same is None or same.deaths is None or now.deaths is None:
        return 0.0, 0  # time runs from the first report that tells
    is_going_on = now.deaths >= same.deaths
    died = now.deaths - same.deaths if is_going_on else now.deaths
    return max(now.received - same.received, 0.0), _cut(died)


def _energy(same: Said | None, now: Said) -> tuple[int, int]:
    if now.joules is None or now.measured_s is None:
        return 0, 0
    if same is None or same.joules is None or same.measured_s is None:
        return 0, 0  # as with deaths: it runs from the first report that tells
    if now.measured_s < same.measured_s or now.joules < same.joules:
        return _cut(now.joules), _cut(now.measured_s)
    return _cut(now.joules - same.joules), _cut(now.measured_s - same.measured_s)


def _cut(count: int) -> int:
    return min(max(count, 0), COUNT_MAX)
