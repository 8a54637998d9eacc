"""A simulated rollout in words: lines for people, from the document of the API."""

from __future__ import annotations

from typing import Any, Final

_HOUR_S: Final = 3_600
_DAY_S: Final = 86_400
_KILO: Final = 1_000
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")


def report(document: dict[str, Any]) -> list[str]:
    """Return what would happen: how it ends, how long it takes, and what would be found."""
    members, size = document["members"], _bytes(document["model_bytes"])
    lines = [f"{document['as_assumed']['runs']} runs over {members} devices, {size} each"]
    lines += _outcomes("as assumed", document["as_assumed"])
    if document["harmful"] is not None:
        points = f"{document['harm'] * 100:.1f} points more errors"
        worse = f"a candidate with {points}" if document["harm"] else "a candidate that is worse"
        lines += _outcomes(worse, document["harmful"])
        lines.append(f"  stopped                {document['harmful']['stopped']:.0%} of runs")
    else:
        lines.append(
            "no gate could tell a worse candidate: assume labels_per_h, or compare latency"
        )
    for line in document["transcript"]:
        lines += _line(line)
    return lines


def _outcomes(title: str, found: dict[str, Any]) -> list[str]:
    ends = ", ".join(f"{count} {_words(name)}" for name, count in sorted(found["outcomes"].items()))
    if found["phases_stopped"]:
        stops = sorted(found["phases_stopped"].items())
        ends += f" (in {', '.join(f'{name}: {count}' for name, count in stops)})"
    return [
        f"{title}: {ends}",
        f"  {'':<22} {'10 %':>10} {'median':>10} {'90 %':>10}",
        _row("duration", [duration(each) for each in found["duration_s"]]),
        _row("of which soaking", [duration(each) for each in found["soaked_s"]]),
        _row("bytes", [_bytes(each) for each in found["bytes"]]),
        _row("most devices serving it", [f"{each:.0f}" for each in found["served_max"]]),
    ]


def duration(seconds: float) -> str:
    """Return a duration in the unit that people would use."""
    if seconds < 2 * _HOUR_S:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.1f} d"


def _row(name: str, values: list[str]) -> str:
    return f"  {name:<23}" + " ".join(f"{value:>10}" for value in values)


def _line(line: dict[str, Any]) -> list[str]:
    at = duration(line["at_s"])
    head = f"{at:>10}  {_words(line['state'])}, phase {line['phase'] + 1} {line['phase_state']}"
    return [head, *(f"{'':<12}{sentence}" for sentence in line["why"])]


def _bytes(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < _KILO:
            return f"{count:.4g} {unit}"
        count /= _KILO
    return f"{count:.4g} {_UNITS[-1]}"


def _words(name: str) -> str:
    return name.replace("_", " ")
