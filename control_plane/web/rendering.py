"""Values to HTML. All text is escaped by the template engine; nothing here marks text as safe."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from control_plane.api.events import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control_plane.api.rollouts import PhaseCounts
    from control_plane.telemetry.drift import Distance
    from control_plane.web.snapshot import ModelScore, Rates, Snapshot

PARTS: Final = ("fleet", "models", "rollouts", "drift", "devices")
CELLS_MAX: Final = 96
_LARGEST: Final = 5
# p-values of a cell's colour, each a step; beside them stands the number.
_LEVELS: Final = (1e-2, 1e-4, 1e-8, 1e-16)
# The order of a phase's bar: what went well first, what is to come last.
_BAR: Final = (
    "committed",
    "shadowing",
    "in_progress",
    "waiting",
    "failed",
    "rolled_back",
    "differing",
    "reverting",
    "reverted",
    "superseded",
    "planned",
)


class Stretch(NamedTuple):
    """A part of a bar: from `start`, `size` devices wide."""

    name: str
    start: int
    size: int


class Cell(NamedTuple):
    """One column of a heat strip."""

    column: Distance
    level: str


def page(name: str, **values: object) -> str:
    """Return a whole page."""
    return _ENVIRONMENT.get_template(name).render(**values)


def messages(shown: Snapshot) -> dict[str, Message]:
    """Return the parts of the page as events: HTML to put in place, and the chart's series."""
    parts = {name: Message("", page("part.html", part=name, shown=shown)) for name in PARTS}
    return parts | {"series": Message("series", series(shown.rates))}


def series(rates: Rates) -> str:
    """Return the chart's data as JSON."""
    return json.dumps([rates.times, rates.values], separators=(",", ":"))


def stretches(counts: PhaseCounts) -> list[Stretch]:
    """Return the bar of a phase, left to right, without empty stretches."""
    found, start = [], 0
    for name in _BAR:
        size = getattr(counts, name)
        if size:
            found.append(Stretch(name, start, size))
        start += size
    return found


def cells(columns: Sequence[Distance]) -> list[Cell]:
    """Return the heat strip of a model: its columns, the last ones always among them."""
    shown = columns if len(columns) <= CELLS_MAX else (*columns[: CELLS_MAX - 12], *columns[-12:])
    return [Cell(column, level(column)) for column in shown]


def largest(columns: Sequence[Distance]) -> list[Distance]:
    """Return the columns that differ most."""
    return sorted(columns, key=lambda column: (column.p, -column.psi))[:_LARGEST]


def level(column: Distance) -> str:
    """Return the step of a cell's colour: "few" without enough rows, else how small p is."""
    if not column.is_enough:
        return "few"
    return str(sum(column.p < bound for bound in _LEVELS))


def score_of(scores: Sequence[ModelScore], model: str | None) -> ModelScore | None:
    """Return what labels say of a model, None if none came."""
    return next((score for score in scores if score.model == model), None)


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _devices(count: int) -> str:
    return f"{_count(count)} device{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3g}"


def _p(value: float) -> str:
    return "< 1e-16" if value < _LEVELS[-1] else f"{value:.2g}"


def _utc(value: float) -> datetime:
    return datetime.fromtimestamp(value, UTC)


def _clock(value: float) -> str:
    return _utc(value).strftime("%Y-%m-%d %H:%M:%SZ")


def _iso(value: float) -> str:
    return _utc(value).isoformat(timespec="seconds")


def _words(value: object) -> str:
    return str(value).replace("_", " ")


def _slug(value: object) -> str:
    return "".join(char if char.isalnum() else "-" for char in str(value).lower())


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("control_plane.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "cells": cells,
        "clock": _clock,
        "count": _count,
        "devices": _devices,
        "iso": _iso,
        "largest": largest,
        "number": _number,
        "p": _p,
        "score_of": score_of,
        "series": series,
        "slug": _slug,
        "stretches": stretches,
        "words": _words,
    }
    made.filters.update(filters)
    return made


_ENVIRONMENT: Final = _environment()
