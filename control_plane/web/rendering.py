"""Values to HTML. All text is escaped by the template engine; nothing here marks text as safe."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from math import isnan
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from control_plane.alerts.signals import names
from control_plane.api.events import Message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from control_plane.api.rollouts import PhaseCounts
    from control_plane.telemetry.apart import Apart
    from control_plane.telemetry.cohort_drift import ModelDrift
    from control_plane.telemetry.drift import Distance
    from control_plane.telemetry.standing import WatchRow
    from control_plane.web.rollout_view import Trend
    from control_plane.web.snapshot import ModelScore, Rates, Snapshot
    from firmware_bundles.sketches.skew import Skew

PARTS: Final = ("fleet", "alerts", "models", "rollouts", "drift", "beside", "devices")
CELLS_MAX: Final = 96
_LARGEST: Final = 5
# By how much a column surely differs (PSI beyond chance, the lower end of its interval): steps of a
# cell's colour. They say where to look first; beside them stand the numbers.
_LEVELS: Final = (0.01, 0.05, 0.1, 0.25)
_SD_SHOWN_MAX: Final = 2.0
_SD_WIDTH: Final = 40
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
    skew: Skew
    level: str


class Mark(NamedTuple):
    """A shift with its interval on a scale from -2 to 2 sd, 40 wide each; what is beyond is cut."""

    low: float
    middle: float
    high: float


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


def trend(found: Trend) -> str:
    """Return the chart of a rollout's labels as JSON."""
    return json.dumps([found.times, found.candidate, found.control], separators=(",", ":"))


def span(seconds: float | None) -> str:
    """Return how long something may take; a dash if nothing is known of it."""
    if seconds is None:
        return "\N{EN DASH}"
    for size, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def stretches(counts: PhaseCounts) -> list[Stretch]:
    """Return the bar of a phase, left to right, without empty stretches."""
    found, start = [], 0
    for name in _BAR:
        size = getattr(counts, name)
        if size:
            found.append(Stretch(name, start, size))
        start += size
    return found


def cells(model: ModelDrift) -> list[Cell]:
    """Return the heat strip of a model: its columns, the last ones always among them."""
    found = [
        Cell(column, skew, level(column, skew))
        for column, skew in zip(model.columns, model.skews, strict=True)
    ]
    return found if len(found) <= CELLS_MAX else [*found[: CELLS_MAX - 12], *found[-12:]]


def largest(model: ModelDrift) -> list[Cell]:
    """Return the columns that surely differ most."""
    found = [
        Cell(column, skew, level(column, skew))
        for column, skew in zip(model.columns, model.skews, strict=True)
    ]
    return sorted(found, key=lambda cell: (-cell.skew.excess_low, -cell.column.psi))[:_LARGEST]


def level(column: Distance, skew: Skew) -> str:
    """Return the step of a cell's colour: "few" without enough rows, else how much it differs."""
    if not column.is_enough:
        return "few"
    return str(sum(skew.excess_low >= bound for bound in _LEVELS))


def changed(model: ModelDrift) -> list[WatchRow]:
    """Return the model's devices that changed."""
    return [row for row in model.devices if row.standing.is_changed]


def mark(column: Apart) -> Mark | None:
    """Return where a shift stands on its scale, None where there is none."""
    places = column.shift_low, column.shift, column.shift_high
    if any(isnan(place) for place in places):
        return None
    cut = [min(_SD_SHOWN_MAX, max(-_SD_SHOWN_MAX, place)) for place in places]
    return Mark(*((place + _SD_SHOWN_MAX) * _SD_WIDTH for place in cut))


def score_of(scores: Sequence[ModelScore], model: str | None) -> ModelScore | None:
    """Return what labels say of a model, None if none came."""
    return next((score for score in scores if score.model == model), None)


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _devices(count: int) -> str:
    return f"{_count(count)} device{'' if count == 1 else 's'}"


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3g}"


def _shift(value: float) -> str:
    return "\N{EN DASH}" if isnan(value) else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


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
        "changed": changed,
        "mark": mark,
        "names": names,
        "shift": _shift,
        "clock": _clock,
        "count": _count,
        "devices": _devices,
        "iso": _iso,
        "largest": largest,
        "number": _number,
        "score_of": score_of,
        "series": series,
        "slug": _slug,
        "span": span,
        "stretches": stretches,
        "trend": trend,
        "words": _words,
    }
    made.filters.update(filters)
    return made


_ENVIRONMENT: Final = _environment()
