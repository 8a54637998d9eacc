"""What the buffer costs: rows a second next to bare sqlite3, bytes a prediction on disk and wire.

Both write the same predictions in the same run with the same pragmas (WAL, synchronous=FULL, one
transaction a batch), in turns. The bare one inserts a row each (time, class, latency, scores) with
`executemany`; ours encodes the columns of a segment and commits it with the journal's cursor. Rows
are those of the digits sample: its held-out scores, a hundred a second, latencies around 60 us.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from agent.store import buffer_schema
from agent.store.buffer import Buffer, Sealed
from agent.store.journal import Journal, Position
from agent.telemetry import rows, sealing
from agent.telemetry.answers import Answers
from agent.telemetry.rows import PredictionRow
from agent.telemetry.sealing import Model
from firmware_bundles.wire import codec, topics
from support import benchmark, journal_rows
from support.benchmark import Limit, Report
from support.bundles import SAMPLES

BATCHES = (64, 1_024)
ROWS = 1_024
TURNS, TURN_ROWS = 31, 4_096
SHARE_MIN, WIRE_BYTES_MAX = 0.6, 6.0
ROWS_ON_DISK = 102_400

_MODEL = Model("digits", "d" * 64, None)
_INCARNATION = "0123456789abcdef"
_TOPIC = topics.up("device-1", topics.Up.TELEMETRY)
_TABLE = "CREATE TABLE prediction (time_us INTEGER, class INTEGER, latency_us INTEGER, scores BLOB)"


def _rows(count: int) -> list[PredictionRow]:
    with np.load(SAMPLES / "v2" / "heldout.npz") as held_out:
        scores = held_out["probs"].astype(np.float32)
    random = np.random.default_rng(1)
    chosen = scores[random.integers(0, len(scores), count)]
    gaps = random.exponential(10_000, count).astype(np.int64)
    times = 1_790_000_000_000_000 + np.cumsum(gaps)
    latencies = random.lognormal(np.log(60), 0.15, count).astype(np.int64)
    none = np.zeros(0, dtype=np.float32)
    return [
        PredictionRow(0, number, int(at), int(one.argmax()), int(us), one, none)
        for number, (at, us, one) in enumerate(zip(times, latencies, chosen, strict=True), start=1)
    ]


class Batch(NamedTuple):
    """The same predictions as the bare one takes them, and as ours reads them from its journal."""

    rows: list[PredictionRow]
    answers: Answers


def _batches(some: list[PredictionRow], size: int) -> Iterator[Batch]:
    """The same rows again and again under new numbers, as a device goes on."""
    first = 0
    while True:
        for start in range(0, len(some), size):
            part = [
                row._replace(sequence=first + row.sequence) for row in some[start : start + size]
            ]
            yield Batch(part, journal_rows.answered(part).all)
        first += len(some)


def _seal(store: Buffer, part: Batch) -> None:
    found = sealing.predictions(_INCARNATION, _MODEL, part.answers).sent
    sealed = [Sealed(each.key, each.rows, codec.encode(each)) for each in found]
    store.seal(_INCARNATION, Position(1, part.rows[-1].sequence), sealed, [])


def _insert(bare: sqlite3.Connection, part: Batch) -> None:
    bare.execute("BEGIN IMMEDIATE")
    bare.executemany(
        "INSERT INTO prediction VALUES (?, ?, ?, ?)",
        [(row.time_us, row.predicted, row.latency_us, row.scores.tobytes()) for row in part.rows],
    )
    bare.execute("COMMIT")


@contextmanager
def _stores(folder: Path) -> Iterator[tuple[Buffer, sqlite3.Connection]]:
    path = folder / "buffer.db"
    buffer_schema.migrate(path)
    store, bare = Buffer(path), sqlite3.connect(folder / "bare.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 256"):
        bare.execute(f"PRAGMA {pragma}").fetchall()
    bare.execute(_TABLE)
    try:
        yield store, bare
    finally:
        store.close()
        bare.close()


def _rate(write: Callable[[Batch], None], parts: list[Batch]) -> float:
    """Rows a second of one turn."""
    began, count = time.perf_counter(), 0
    for part in parts:
        write(part)
        count += len(part.rows)
    return count / (time.perf_counter() - began)


def _rates(folder: Path, size: int) -> list[tuple[float, float]]:
    """Rows a second of both, in short turns side by side: a disk that others use is seldom alike.

    Who begins changes from turn to turn.
    """
    found: list[tuple[float, float]] = []
    with _stores(folder) as (store, bare):
        batches = _batches(_rows(ROWS), size)
        writers = partial(_seal, store), partial(_insert, bare)
        for write in writers:  # the first batch opens files and warms what is compiled once
            write(next(batches))
        count = max(1, TURN_ROWS // size)
        for turn in range(TURNS):
            parts = [next(batches) for _ in range(count)]
            rates = [0.0, 0.0]
            for place in (0, 1) if turn % 2 else (1, 0):
                rates[place] = _rate(writers[place], parts)
            found.append((rates[0], rates[1]))
    return found


def _on_disk(folder: Path, size: int) -> float:
    """Bytes of the file for each row."""
    path = folder / "disk.db"
    buffer_schema.migrate(path)
    empty = path.stat().st_size
    store = Buffer(path)
    batches = _batches(_rows(ROWS), size)
    for _ in range(ROWS_ON_DISK // size):
        _seal(store, next(batches))
    store.close()
    found = (path.stat().st_size - empty) / ROWS_ON_DISK
    path.unlink()
    return found


def _on_wire(size: int) -> float:
    """Bytes of the sealed message for each row, with tag and head."""
    answers = journal_rows.answered(_rows(ROWS)[:size]).all
    found = sealing.predictions(_INCARNATION, _MODEL, answers).sent
    return sum(len(codec.seal(b"k" * 32, _TOPIC, each)) for each in found) / size


def _journal_ns(folder: Path) -> float:
    """Nanoseconds of a row in the journal, median: what an answer waits for."""
    journal, took = Journal(folder, _INCARNATION), []
    for row in _rows(ROWS):
        began = time.perf_counter_ns()
        journal.append(rows.encode_prediction(row))
        took.append(time.perf_counter_ns() - began)
    journal.close()
    return median(took)


def measure() -> Report:
    """Write the same rows both ways; weigh files and messages."""
    figures: dict[str, object] = {}
    limits = []
    for size in BATCHES:
        with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
            rates = _rates(Path(name), size)
            figures[f"batches of {size}, rows/s"] = round(median(ours for ours, _ in rates))
            figures[f"batches of {size}, bare executemany, rows/s"] = round(
                median(r[1] for r in rates)
            )
            figures[f"batches of {size}, bytes a prediction on disk"] = _on_disk(Path(name), size)
            figures[f"batches of {size}, bytes a prediction on the wire"] = _on_wire(size)
            what = f"batches of {size}, rows/s next to bare executemany"
            share = median(ours / bare for ours, bare in rates)
            limits.append(Limit(what=what, value=share, unit="x", limit=SHARE_MIN, bound=">="))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        figures["a row in the journal, ns"] = _journal_ns(Path(name))
    wire = _on_wire(BATCHES[-1])
    what = f"bytes a prediction on the wire, batches of {BATCHES[-1]:,}"
    limits.append(Limit(what=what, value=wire, unit="B", limit=WIRE_BYTES_MAX))
    return Report(limits=limits, figures=figures)


if __name__ == "__main__":
    sys.exit(benchmark.main("buffer", measure))
