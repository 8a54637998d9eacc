"""Watching and alerting over a database on disk, without broker, listeners or processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from control_plane.alerts.decision import Rules as AlertRules
from control_plane.alerts.posting import Posting
from control_plane.alerts.rounds import Rounds, Sources
from control_plane.api import alerts as alert_routes
from control_plane.api import app as application
from control_plane.api import telemetry, tokens, watches, webhooks
from control_plane.api.auth import Access, Role
from control_plane.store.arrivals import Sent
from control_plane.store.database import Database
from control_plane.store.stores import Stores
from control_plane.telemetry.baselines import Baselines
from control_plane.telemetry.cohort_drift import CohortDrift
from control_plane.telemetry.device_drift import DeviceDrifts
from control_plane.telemetry.standing import Rules
from control_plane.telemetry.watching import Watching
from firmware_bundles import chunks
from firmware_bundles.sketches import baseline
from firmware_bundles.sketches.codec import encode_baseline, encode_sketch
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.watch import Settings
from firmware_bundles.wire.messages import Segment, SegmentKey, SegmentKind
from support import fleet_rows
from support.control_planes import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import httpx
    from fastapi import FastAPI

    from control_plane.telemetry.standing import WatchRow

ROWS, HOUR = 300, 3_600.0


def _facts() -> baseline.Baseline:
    """Three features and two classes; the model is right as often as it is sure."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(2_000, 3)).astype(np.float32)
    scores = _scores(random, 2_000)
    truth = np.where(random.uniform(size=2_000) < 0.95, scores.argmax(axis=1), 0)
    return baseline.make({"x": rows}, scores, ("no", "yes"), truth=truth)


def _scores(
    random: np.random.Generator, rows: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    sure = random.uniform(0.9, 1.0, rows).astype(np.float32)
    is_yes = random.uniform(size=rows) < 0.5
    yes = np.where(is_yes, sure, 1 - sure)
    return np.stack([1 - yes, yes], axis=1).astype(np.float32)


FACTS = _facts()


class WatchWorld:
    """The parts as the service makes them; the database may be opened again."""

    def __init__(self, directory: Path, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self.url = f"sqlite:///{directory / 'shoal.db'}"
        self.clock = Clock(fleet_rows.NOW)
        self.transport = transport
        self.members: Mapping[str, Sequence[str]] = {}
        self.database = Database.open(self.url)
        data = encode_baseline(FACTS)
        self.chunks = {chunk.digest: chunk.data for chunk in chunks.cut(data)}
        self.model = fleet_rows.publish(self.database, "1", 1, {"baseline.bin": data})
        self.open()

    def open(self) -> None:
        """Begin as a process begins."""
        self.stores = Stores.over(self.database)
        self.watches, self.telemetry = self.stores.watches, self.stores.telemetry
        baselines = Baselines(self.telemetry.manifest, self.chunks.__getitem__)
        rules = Rules(Settings(reference_rows=1_500), quiet_windows=4)
        self.watching = Watching(self.watches, baselines, rules, self.clock, settle_s=10.0)
        sources = Sources(
            alerts=self.stores.alerts,
            watches=self.watches,
            concerns=self.stores.concerns,
            telemetry=self.telemetry,
            baselines=baselines,
            members=lambda: self.members,
        )
        self.rounds = Rounds(sources, AlertRules(100.0, 1_000.0), self.clock, silent_s=500.0)
        self.posting = Posting(self.stores.outbox, self.clock, transport=self.transport)

    def restart(self) -> None:
        """End the process and begin again."""
        self.close()
        self.database = Database.open(self.url)
        self.open()

    def close(self) -> None:
        """End."""
        self.database.close()

    def app(self) -> FastAPI:
        """The routes of alerts and webhooks."""
        access = Access(self.stores.tokens, bytes(32), self.clock)
        outbox, members = self.stores.outbox, self.members.__getitem__
        baselines = Baselines(self.telemetry.manifest, self.chunks.__getitem__)
        drifts = DeviceDrifts(self.stores.outcomes, self.watches, baselines, members, self.clock)
        drift = CohortDrift(self.telemetry, self.watches, baselines, members, self.clock)
        return application.create(
            "0.0.0",
            api=[
                telemetry.router(access, self.telemetry, drift, members),
                alert_routes.router(access, self.stores.alerts, self.rounds),
                watches.router(access, self.watching, drifts),
                webhooks.router(access, outbox, self.posting, self.clock),
            ],
        )

    def token(self, role: Role, name: str = "ann") -> str:
        """Return a fresh API token."""
        return tokens.create(self.stores.tokens, name, role, self.clock()).token

    def send(self, device: str, *numbers: int, shift: float = 0.0) -> None:
        """Let windows come, in this order; a number tells the hour of a window."""
        for number in numbers:
            self.store(device, window(number, self.model, shift))

    def store(self, device: str, sealed: Segment) -> None:
        """Let one segment come."""
        with self.telemetry.storing(self.clock()) as intake:
            intake.add([Sent(device, sealed)])

    def row(self, device: str = "device-0") -> WatchRow:
        """How a device stands."""
        (row,) = self.watches.rows(device_ids=[device])
        return row

    def tick(self) -> None:
        """Let windows settle, then look after them and after alerts."""
        self.clock.now += 11
        self.watching.tick()
        self.rounds.tick()


def window(number: int, model: str, shift: float = 0.0, body: bytes | None = None) -> Segment:
    """A window segment of 300 rows; `shift` moves the second feature."""
    random, sketch = np.random.default_rng(number), Sketch(FACTS)
    values = random.normal(0.1, 1, (ROWS, 3)).astype(np.float32)
    values[:, 1] += shift
    sketch.update(values, _scores(random, ROWS))
    return Segment(
        key=SegmentKey(
            incarnation="00000000000000aa",
            kind=SegmentKind.WINDOW,
            first=number * ROWS + 1,
            last=(number + 1) * ROWS,
        ),
        family="digits",
        model=model,
        rows=ROWS,
        started=fleet_rows.NOW - 90 * HOUR + number * HOUR,
        ended=fleet_rows.NOW - 90 * HOUR + (number + 1) * HOUR,
        body=encode_sketch(sketch) if body is None else body,
    )
