"""The lines of `shoal-agent buffer`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.store.buffer_facts import ContentFacts

_HEAD = ("kind", "segments", "rows", "bytes", "parked", "dropped segments", "dropped rows")
_WIDTHS = (12, 9, 10, 11, 7, 17, 13)


def lines(facts: ContentFacts) -> list[str]:
    """Return what lies in the buffer as a table, with what concerns all of it below."""
    found = [_line(_HEAD)]
    found += [
        _line(
            (
                *(each.kind, each.segments, each.rows, each.bytes, each.parked),
                *(each.dropped_segments, each.dropped_rows),
            )
        )
        for each in facts.kinds
    ]
    quota = f"{facts.quota_bytes:,}" if facts.quota_bytes else "unknown"
    found.append("")
    found.append(f"file      {facts.path}: {facts.file_bytes:,} of {quota} bytes")
    found.append(f"ballast   {'lies ready' if facts.has_ballast else 'is not there: disk full?'}")
    found.append(f"oldest    {_time(facts.oldest)}")
    found.append(f"windows   {facts.open_windows} open")
    found.append(f"answers   {facts.answers} kept for late labels only")
    found.append(f"dropped   {facts.rows_dropped} rows in all, in the journal too")
    if facts.journal_bytes_lost:
        found.append(f"journal   {facts.journal_bytes_lost} bytes were damaged, and are set aside")
    found += [f"parked    {each}" for each in facts.faults]
    return found


def _time(when: float | None) -> str:
    if when is None:
        return "nothing waits"
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(when))


def _line(cells: Iterable[object]) -> str:
    first, *rest = zip(cells, _WIDTHS, strict=True)
    return f"{first[0]!s:<{first[1]}}" + "".join(f"{cell!s:>{width}}" for cell, width in rest)
