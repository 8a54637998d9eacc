"""What this device used of its links and its disk, against its budgets; works without the core.

Values and lines for `shoal-agent usage`. The counting stands in `metering`, what a budget allows
in `deployment.conditions`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from agent import metering
from agent.clock import Clock
from agent.store import usage as accounts
from agent.store.state import State
from firmware_bundles.errors import DeviceError
from firmware_bundles.wire.messages import Conditions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.config import Config

_HEAD = ("day", "link", "purpose", "received", "sent", "written")
_WIDTHS = (10, 10, 10, 14, 14, 14)


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An update that may not go on now."""

    family: str
    waits_for: str


class UsageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of some days, the device's own conditions, and what waits."""

    today: str
    rows: tuple[accounts.Row, ...]
    conditions: Conditions
    waiting: tuple[Waiting, ...]


def gather(config: Config, days: int) -> UsageFacts:
    """Return what is written down. Raises StateDamaged if the accounts cannot be read."""
    return UsageFacts(
        today=time.strftime("%Y-%m-%d", time.localtime(Clock().now())),
        rows=accounts.read(config.state_dir / metering.NAME, days),
        conditions=config.conditions(),
        waiting=_waiting(config),
    )


def lines(facts: UsageFacts) -> list[str]:
    """Return the facts as a table with what they mean today below it."""
    found = [_line(_HEAD)]
    found += [
        _line((row.day, row.link, row.purpose, row.received, row.sent, row.written))
        for row in facts.rows
    ]
    if not facts.rows:
        found = ["nothing was counted yet"]
    found += _budgets(facts)
    return found + [f"{each.family} waits for {each.waits_for}" for each in facts.waiting]


def _budgets(facts: UsageFacts) -> Iterable[str]:
    today = [row for row in facts.rows if row.day == facts.today and row.purpose == "model"]
    limits = facts.conditions
    used = sum(row.received for row in today)
    written = sum(row.written for row in today)
    for name, limit, value in (
        ("received for models", limits.model_bytes_per_day_max, used),
        ("written for models", limits.written_bytes_per_day_max, written),
    ):
        if limit is not None:
            yield f"today {value} of {limit} bytes {name}, {max(0, limit - value)} left"
    if limits.metered_bytes_per_day_max is not None:
        yield f"at most {limits.metered_bytes_per_day_max} bytes a day for models on metered links"


def _waiting(config: Config) -> tuple[Waiting, ...]:
    try:
        state = State.open(config.state_dir / "state.db")
    except DeviceError:
        return ()
    try:
        return tuple(
            Waiting(family=family, waits_for=record.waits_for)
            for family, record in state.records().items()
            if record.waits_for
        )
    finally:
        state.close()


def _line(cells: Iterable[object]) -> str:
    padded = (
        f"{cell:>{width}}" if isinstance(cell, int) else f"{cell:<{width}}"
        for cell, width in zip(cells, _WIDTHS, strict=True)
    )
    return "  ".join(padded).rstrip()
