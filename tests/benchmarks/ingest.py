"""Segments from the broker into the database: messages a second until committed and acknowledged.

A mosquitto of its own (no TLS, on loopback), one process that plays 250 devices, and one process
that is the control plane's client, inbox, ingest and SQLite store (WAL, synchronous=FULL). Devices
seal 64 predictions of ten scores in a segment, and have at most eight under way, as the agent does.
The clock runs from the first publish to the last acknowledgement; every acknowledgement's tag is
checked afterwards, and the rows are counted in the database.

Beside it, in the same run: the same load to a bare paho subscriber with QoS 1, and the same rows by
a bare `executemany` into a bare table with the same pragmas. All of them share the machine's cores,
the broker and the load too; the processor time of a message is the receiver's alone.
"""

from __future__ import annotations

import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import func, insert, select

from control_plane.store import schema
from control_plane.store.database import Database
from support import benchmark, ingest_load
from support.benchmark import Limit, Report
from support.brokers import bare_mosquitto

_DEVICES, _SEGMENTS = 250, 80
_ROUNDS = 3
_BARE_BATCH = 256
_A_SECOND_MIN = 5_000.0
_BARE_S_MAX = 120.0
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536")


class Run(NamedTuple):
    """One load, once."""

    seconds: float
    cpu_s: float
    good: int
    rows: int


def _database(folder: Path) -> Path:
    """Make a database that knows the devices."""
    path = folder / "shoal.db"
    database = Database.open(f"sqlite:///{path}")
    rows = [
        {
            "id": ingest_load.device_id(number),
            "public_key_pem": "",
            "certificate_serial": "",
            "telemetry_secret": ingest_load.secret(number),
            "labels": {},
            "inventory": {},
            "enrolled": 1.0,
        }
        for number in range(_DEVICES)
    ]
    with database.transaction() as connection:
        connection.execute(insert(schema.device), rows)
    database.close()
    return path


@contextmanager
def _process(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a module of the tests until it says that it is ready."""
    command = [sys.executable, "-m", module, *(str(each) for each in arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            _said(running)
            yield running
        finally:
            running.kill()


def _ask(running: subprocess.Popen[str], line: str) -> None:
    assert running.stdin is not None
    running.stdin.write(line + "\n")
    running.stdin.flush()


def _said(running: subprocess.Popen[str]) -> list[float]:
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise SystemExit("a process of the benchmark ended")
    return [float(each) for each in line.split() if each != "ready"]


def _cost(receiver: subprocess.Popen[str]) -> tuple[int, float]:
    _ask(receiver, "?")
    taken, cpu_s = _said(receiver)
    return int(taken), cpu_s


def _run(kind: str, segments: int, folder: Path) -> Run:
    """Pour the load into one kind of receiver."""
    folder.mkdir()
    path = _database(folder)
    with ExitStack() as stack:
        port, _ = stack.enter_context(bare_mosquitto(folder))
        rest = [path] if kind == "own" else []
        receiver = stack.enter_context(_process("support.ingest_receiver", kind, port, *rest))
        load = stack.enter_context(_process("support.ingest_load", port, _DEVICES, segments))
        _, before = _cost(receiver)
        began = time.monotonic()
        _ask(load, "go" if kind == "own" else "count")
        if kind == "bare":
            _await(receiver, _DEVICES * segments)
        seconds = time.monotonic() - began
        if kind == "own":
            seconds, good = _said(load)
        else:
            good = 0
        _, after = _cost(receiver)
    return Run(seconds, after - before, int(good), _rows(path))


def _await(receiver: subprocess.Popen[str], messages: int) -> None:
    deadline = time.monotonic() + _BARE_S_MAX
    while _cost(receiver)[0] < messages:
        if time.monotonic() > deadline:
            raise SystemExit("the bare subscriber did not get all messages")
        time.sleep(0.02)


def _rows(path: Path) -> int:
    """Return how many predictions the database holds, by its segments."""
    database = Database.open(f"sqlite:///{path}")
    with database.reading() as connection:
        counted = connection.execute(select(func.sum(schema.segment.c.rows))).scalar_one()
    database.close()
    return int(counted or 0)


def _bare_rows(segments: int, folder: Path) -> float:
    """Insert the same rows by a bare executemany; return rows a second."""
    bodies = [
        (device, "00000000000000aa", "predictions", number, number, "digits", "a" * 64,
         ingest_load.ROWS, 1.0, 2.0, 3.0, body)
        for number, (device, body) in enumerate(ingest_load.payloads(_DEVICES, segments))
    ]  # fmt: skip
    line = sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in _PRAGMAS:
        line.execute(f"PRAGMA {pragma}")
    line.execute("create table segment (a, b, c, d, e, f, g, h, i, j, k, l)")
    began = time.monotonic()
    for start in range(0, len(bodies), _BARE_BATCH):
        line.execute("begin immediate")
        line.executemany(
            "insert into segment values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            bodies[start : start + _BARE_BATCH],
        )
        line.execute("commit")
    seconds = time.monotonic() - began
    line.close()
    return len(bodies) / seconds


def measure(segments: int) -> Report:
    """Pour the load several times into each receiver, by turns."""
    runs: dict[str, list[Run]] = {"own": [], "bare": []}
    messages = _DEVICES * segments
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        for number in range(_ROUNDS):
            for kind, found in runs.items():
                found.append(_run(kind, segments, Path(name) / f"{kind}{number}"))
                print(f"{kind}: {found[-1]}", file=sys.stderr)
        bare_rows = _bare_rows(segments, Path(name))
    own = runs["own"]
    lost = sum(2 * messages - run.good - run.rows // ingest_load.ROWS for run in own)
    what = "messages/s, published to committed and acknowledged"
    rates = {
        kind: statistics.median(messages / run.seconds for run in found)
        for kind, found in runs.items()
    }
    costs = {
        kind: statistics.median(run.cpu_s for run in found) / messages * 1e6
        for kind, found in runs.items()
    }
    return Report(
        limits=[
            Limit(what=what, value=rates["own"], unit="/s", limit=_A_SECOND_MIN, bound=">="),
            Limit(what="segments not stored or not acknowledged", value=lost, unit="", limit=0),
        ],
        figures={
            "processor cores, for all processes together": os.cpu_count(),
            "predictions/s": rates["own"] * ingest_load.ROWS,
            "processor time of a message, us": costs["own"],
            "bare paho subscriber, messages/s": rates["bare"],
            "bare paho subscriber, processor time of a message, us": costs["bare"],
            "bare sqlite3 executemany, rows/s": bare_rows,
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("ingest", measure, numbers={"segments": _SEGMENTS}))
