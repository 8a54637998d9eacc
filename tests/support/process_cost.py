"""What a process costs: memory and processor time, from /proc (proc(5))."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BARE = """
import asyncio, sqlite3, ssl, sys, msgspec, paho.mqtt.client
print(flush=True)
sys.stdin.read()
"""
_CHILD_TIMES = slice(13, 15)  # cutime and cstime, counted behind the name in parentheses


def memory_mb(pid: int) -> dict[str, float]:
    """Return megabytes: proportional (Pss), not shared with anybody (Uss), resident (Rss)."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, *_ = line.split()
        found[name.rstrip(":")] = int(size)
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"Pss": found["Pss"] / 1024, "Uss": private / 1024, "Rss": found["Rss"] / 1024}


def cpu_s(pid: int) -> float:
    """Return the processor seconds of the threads that live; exact to nanoseconds."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9


def children_cpu_s(pid: int) -> float:
    """Return the processor seconds of the children that ended; exact to a clock tick each."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[_CHILD_TIMES]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def bare_core() -> Iterator[int]:
    """Run a process that only imports the libraries of the agent's core; yield its number."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running.pid
        assert running.stdin is not None
        running.stdin.close()
