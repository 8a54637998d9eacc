"""What a benchmark says: limits that hold or not, and figures beside them; as a table or as JSON.

Not how anything is measured: that is each benchmark's own, in `tests/benchmarks/<name>.py`, which
ends in `sys.exit(benchmark.main("<name>", measure))`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TextIO

_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A value measured, and its bound: at most `limit`, or at least with `bound=">="`."""

    what: str
    value: float
    unit: str
    limit: float
    bound: Literal["<=", ">="] = "<="

    @property
    def holds(self) -> bool:
        """Whether the bound is kept; a value that is not a number keeps none."""
        return self.value <= self.limit if self.bound == "<=" else self.value >= self.limit


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one run of a benchmark found.

    `figures` are numbers without a bound: peers, parts, sizes.
    """

    limits: Sequence[Limit] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether every limit is kept."""
        return all(limit.holds for limit in self.limits)


def to_json(name: str, report: Report) -> str:
    """One line: the report as the object that `./bench.sh --json` promises."""
    limits = [
        {
            "what": limit.what,
            "value": limit.value,
            "unit": limit.unit,
            "limit": limit.limit,
            "holds": limit.holds,
        }
        for limit in report.limits
    ]
    return json.dumps({"name": name, "limits": limits, "figures": dict(report.figures)})


def to_table(name: str, report: Report) -> str:
    """The report for a person: one line a limit, then one line a figure."""
    lines = [name]
    for limit in report.limits:
        mark = "ok    " if limit.holds else "BROKEN"
        bound = f"({limit.bound} {limit.limit:,g})"
        lines.append(f"  {mark}  {limit.what:<52} {limit.value:>12,.4g} {limit.unit}  {bound}")
    lines += [f"          {what:<52} {_figure(value)}" for what, value in report.figures.items()]
    return "\n".join(lines)


def main(
    name: str,
    measure: Callable[..., Report],
    argv: Sequence[str] | None = None,
    *,
    numbers: Mapping[str, int] = MappingProxyType({}),
) -> int:
    """Run `measure` and print its report. The status is 0 if every limit holds, else 1.

    Each of `numbers` is an option with this default, and given to `measure` by its name.
    With `--json` standard output carries exactly one object: whatever `measure` or its children
    print there goes to standard error.
    """
    parser = argparse.ArgumentParser(prog=f"bench.sh {name}")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    for option, default in numbers.items():
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N")
    options = vars(parser.parse_args(argv))
    # What was started and written for it goes away then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    if options.pop("json"):
        with _standard_output_moved_to(sys.stderr):
            report = measure(**options)
        print(to_json(name, report), flush=True)
    else:
        report = measure(**options)
        print(to_table(name, report), flush=True)
    return 0 if report.holds else 1


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:>12,.4g}"
    if isinstance(value, int):
        return f"{value:>12,}"
    return f"{value}"


@contextlib.contextmanager
def _standard_output_moved_to(stream: TextIO) -> Iterator[None]:
    """Point file descriptor 1 elsewhere, so that children follow too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(stream.fileno(), 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
