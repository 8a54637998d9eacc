"""The page over a real database, empty or full, without broker and devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from control_plane.alerts.decision import Rules as AlertRules
from control_plane.alerts.rounds import Rounds, Sources
from control_plane.api import (
    alerts,
    assessments,
    events,
    stored_telemetry,
    telemetry,
    tokens,
    watches,
)
from control_plane.api import app as application
from control_plane.api.auth import Access, Role
from control_plane.fleet.cohorts import Cohorts
from control_plane.rollouts.draft import Release
from control_plane.store.access import AccessTokens
from control_plane.store.alerts import Alerts
from control_plane.store.certificates import Certificates
from control_plane.store.cohorts import CohortRow, CohortRows
from control_plane.store.concerns import Concerns
from control_plane.store.database import Database
from control_plane.store.device_history import DeviceHistory
from control_plane.store.devices import Devices
from control_plane.store.outcomes import Outcomes
from control_plane.store.overview import Overview
from control_plane.store.pruning import Pruning
from control_plane.store.rollouts import Rollouts
from control_plane.store.tallies import Tallies
from control_plane.store.telemetry import Telemetry
from control_plane.store.watches import Watches
from control_plane.telemetry.assessments import Assessments
from control_plane.telemetry.baselines import Baselines
from control_plane.telemetry.cohort_drift import CohortDrift
from control_plane.telemetry.device_drift import DeviceDrifts
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.latency_groups import Latencies
from control_plane.telemetry.standing import Rules
from control_plane.telemetry.watching import Watching
from control_plane.web import pages
from control_plane.web.device_view import DeviceReader
from control_plane.web.outlook import Outlooks
from control_plane.web.rollout_view import RolloutReader
from control_plane.web.snapshot import Reader
from firmware_bundles import chunks
from firmware_bundles.errors import NotFound
from firmware_bundles.manifest import Manifest
from firmware_bundles.sketches.baseline import Value, make
from firmware_bundles.sketches.codec import encode_baseline, encode_sketch
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.watch import Settings
from firmware_bundles.wire.messages import Segment
from support import fleet_rows, segments

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI

SAMPLES = Path(__file__).parents[2] / "firmware_bundles" / "samples" / "digits"
SPEC = {
    "family": "digits",
    "release": "2",
    "cohort": "all",
    "phases": [
        {"share": 0.125, "soak_s": 5},
        {"share": 0.5, "soak_s": 5},
        {"share": 1.0, "soak_s": 5},
    ],
    "gates": {"label_errors": {"margin": 0.05, "labels_min": 100}},
}
GATES = [
    {
        "gate": "installs",
        "verdict": "pass",
        "sentence": "installs: 0 of 1 broken",
        "value": 0.0,
        "threshold": 0.05,
        "samples": {"offered": 1, "finished": 1, "broken": 0, "silent": 0},
    },
    {
        "gate": "label_errors",
        "verdict": "inconclusive",
        "sentence": "label errors: 42 labels of the candidate, 100 are needed",
        "value": 0.012,
        "threshold": 0.05,
        "samples": {"candidate": 42, "control": 512},
    },
]


class _Releases:
    """No bundle is here: what devices fetch is not known."""

    def find(self, family: str, version: str, /) -> Release:
        """Find nothing."""
        raise NotFound(f"there is no {family} {version}")

    def file(self, _digest: str, name: str) -> bytes:
        """No bundle has files here."""
        raise KeyError(name)

    def manifest(self, digest: str, /) -> Manifest:
        """Find nothing."""
        raise NotFound(f"there is no {digest}")


@dataclass
class PageWorld:
    """All that the page is made from."""

    database: Database
    clock: Callable[[], float] = lambda: fleet_rows.NOW
    chunks: dict[str, bytes] = field(default_factory=dict)
    rang: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Wire the parts."""
        self.telemetry = Telemetry(self.database)
        self.watches = Watches(self.database)
        self.ingest = Ingest(
            self.telemetry, lambda _: fleet_rows.SECRET, lambda *_: None, self.clock
        )
        access_tokens = AccessTokens(self.database)
        self.access = Access(access_tokens, b"s" * 32, self.clock)
        self.token = tokens.create(access_tokens, "alice", Role.VIEWER, self.clock()).token
        self.cohorts = Cohorts(CohortRows(self.database), Devices(self.database), self.clock)
        baselines = Baselines(self.telemetry.manifest, self.chunks.__getitem__)
        self.drift = CohortDrift(
            self.telemetry, self.watches, baselines, self.cohorts.members, self.clock
        )
        self.assessments = Assessments(
            Outcomes(self.database),
            baselines,
            self.cohorts.members,
            self.clock,
            lambda _family, _model, _since: self.rang,
        )
        members = self.cohorts.members
        outcomes = Outcomes(self.database)
        self.devices = DeviceDrifts(outcomes, self.watches, baselines, members, self.clock)
        rules = Rules(Settings(reference_rows=400), quiet_windows=4)
        self.watching = Watching(self.watches, baselines, rules, self.clock, settle_s=0.0)
        sources = Sources(
            alerts=Alerts(self.database),
            watches=self.watches,
            concerns=Concerns(self.database),
            telemetry=self.telemetry,
            baselines=baselines,
            members=self.cohorts.all_members,
        )
        self.rounds = Rounds(sources, AlertRules(), self.clock)
        self.reader = Reader(
            overview=Overview(self.database),
            telemetry=self.telemetry,
            rollouts=Rollouts(self.database),
            cohorts=self.cohorts,
            drift=self.drift,
            alerts=Alerts(self.database),
            devices=self.devices,
            clock=self.clock,
        )

    def give_token(self, name: str, role: Role) -> str:
        """Return a fresh token."""
        return tokens.create(AccessTokens(self.database), name, role, self.clock()).token

    def app(self) -> FastAPI:
        """The page and the routes that it needs."""
        return application.create(
            "0.1.0",
            api=[
                events.router(self.access, pages.make_feed(self.reader)),
                telemetry.router(self.access, self.telemetry, self.drift, self.cohorts.members),
                assessments.router(self.access, self.assessments, self.telemetry.pending_labels),
                watches.router(self.access, self.watching, self.devices),
                alerts.router(self.access, Alerts(self.database), self.rounds),
                stored_telemetry.router(self.access, self._latencies(), Pruning(self.database)),
            ],
            pages=[
                pages.router(
                    self.access,
                    self.reader,
                    RolloutReader(Rollouts(self.database), Outlooks(_Releases()), self.clock),
                    DeviceReader(
                        Devices(self.database),
                        DeviceHistory(self.database),
                        Rollouts(self.database),
                        Certificates(self.database),
                        self.clock,
                    ),
                    f"{application.API_PREFIX}/events",
                )
            ],
        )

    def _latencies(self) -> Latencies:
        names = [each.name for each in self.cohorts.all()]
        return Latencies(Tallies(self.database), self.cohorts.members, lambda: names, self.clock)

    def send(self, device_id: str, *sent: Segment) -> None:
        """Let a device's segments arrive."""
        sealed = [segments.seal(device_id, fleet_rows.SECRET, each) for each in sent]
        self.ingest.ingest([(device_id, each) for each in sealed])


def fill(world: PageWorld) -> dict[str, str]:
    """Add eight devices, three releases, a completed and a running rollout, and telemetry.

    Returns the models' digests by version.
    """
    held_out = np.load(SAMPLES / "v2" / "heldout.npz")
    scores = held_out["probs"].astype(np.float32)
    labels = [str(each) for each in range(scores.shape[1])]
    inputs = {"image": held_out["image"].astype(np.float32)}
    baseline = make(inputs, scores, labels, truth=held_out["label"].astype(np.int64))
    body = encode_baseline(baseline)
    world.chunks.update({chunk.digest: chunk.data for chunk in chunks.cut(body)})
    models = {
        version: fleet_rows.publish(world.database, version, number, {"baseline.bin": body})
        for number, version in enumerate(("1", "2", "bad"), start=1)
    }
    for name, selector in (("all", ""), ("berlin", "site=berlin")):
        CohortRows(world.database).add(CohortRow(name, selector, fleet_rows.NOW))
    for at in range(8):
        _add_device(world, at, models)
    _add_rollouts(world)
    features = held_out["image"].reshape(len(scores), -1).astype(np.float32)
    for at in range(8):
        window = Sketch(baseline)
        rows = np.random.default_rng(at).choice(len(scores), 400)
        shift = 2.0 if at % 2 else 0.0
        moved = features[rows].copy()
        moved[:, 20:24] += np.float32(shift)
        window.update(moved, scores[rows])
        model = models["2" if at < 4 else "1"]
        world.send(f"device-{at}", segments.window(1, encode_sketch(window), 400, model=model))
    return models


def declare(world: PageWorld, segments_: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Publish a model of two classes that declares these, add device-9, and return its digest."""
    scores = np.random.default_rng(1).dirichlet([1.0, 1.0], 60).astype(np.float32)
    baseline = msgspec.structs.replace(
        make({"x": scores}, scores, ["0", "1"]),
        segments=segments_,
        values=tuple(Value(name=name, scale=256.0) for name in values),
    )
    body = encode_baseline(baseline)
    world.chunks.update({chunk.digest: chunk.data for chunk in chunks.cut(body)})
    fleet_rows.enrol(world.database, "device-9", last_seen=fleet_rows.NOW)
    return fleet_rows.publish(world.database, "fair", 9, {"baseline.bin": body})


def tell(world: PageWorld, model: str, rows: list[tuple[int, int, int]]) -> None:
    """Let device-9 send labels: segment, label, and how many; of fewer than none it answered 0."""
    told = [each for each in rows for _ in range(abs(each[2]))]
    numbers = list(range(1, len(told) + 1))
    sent = segments.feedback(
        numbers,
        numbers,
        [label for _, label, _ in told],
        places=[segment for segment, _, _ in told],
        predicted=[int(many > 0) for _, _, many in told],
    )
    world.send("device-9", msgspec.structs.replace(sent, model=model))


def bring(world: PageWorld, model: str, rows: list[tuple[int, float]]) -> None:
    """Let device-9 send "revenue": segment and value."""
    numbers = list(range(1, len(rows) + 1))
    sent = segments.feedback(
        numbers,
        numbers,
        [-1] * len(rows),
        places=[segment for segment, _ in rows],
        predicted=[0] * len(rows),
        values=[(at, "revenue", round(value * 256)) for at, (_, value) in enumerate(rows)],
    )
    world.send("device-9", msgspec.structs.replace(sent, model=model))


def _add_device(world: PageWorld, at: int, models: dict[str, str]) -> None:
    device_id, version = f"device-{at}", "2" if at < 4 else "1"
    site = "berlin" if at % 2 else "oslo"
    fleet_rows.enrol(
        world.database,
        device_id,
        labels={"site": site},
        is_online=at != 7,
        last_seen=fleet_rows.NOW - at,
        buffer={"segments": at, "bytes": 900 * at, "rows_dropped": 0},
    )
    fleet_rows.report(
        world.database,
        device_id,
        state="probation" if at == 3 else "failed" if at == 6 else "committed",
        generation=2 if at < 4 else 1,
        serving_digest=models[version],
        serving_version=version,
        answered=1000 + at,
        fault_code="device.self_test_failed" if at == 6 else None,
        fault_message="golden vector 3 is off by 41 steps" if at == 6 else None,
    )
    numbers = list(range(1, 901))
    answers = [number % 10 for number in numbers]
    model = models[version]
    for start in range(0, 900, 300):
        part = slice(start, start + 300)
        world.send(device_id, segments.predictions(numbers[part], answers[part], model=model))
    true = [answer if number % 25 else 0 for number, answer in zip(numbers, answers, strict=True)]
    world.send(
        device_id,
        segments.labels(
            numbers[:200], numbers[:200], true[:200], predicted=answers[:200], model=model
        ),
    )


def _add_rollouts(world: PageWorld) -> None:
    database = world.database
    fleet_rows.roll_out(
        database,
        "first-1a2b3c",
        "1",
        SPEC | {"release": "1"},
        state="completed",
        phase=2,
        phase_state="passed",
        created=fleet_rows.NOW - 3000,
    )
    fleet_rows.roll_out(database, "better-4d5e6f", "2", SPEC, phase=1)
    for at in range(8):
        fleet_rows.deploy(database, "first-1a2b3c", f"device-{at}", position=at, generation=1)
        fleet_rows.deploy(
            database,
            "better-4d5e6f",
            f"device-{at}",
            position=at,
            generation=2 if at < 4 else 0,
            previous_path="digits/1/manifest.json",
            offered=fleet_rows.NOW - 30 if at < 4 else None,
        )
    fleet_rows.decide(database, "first-1a2b3c", "created by admin", at=fleet_rows.NOW - 3000)
    fleet_rows.decide(
        database,
        "first-1a2b3c",
        "all 3 phases passed",
        at=fleet_rows.NOW - 2900,
        state="completed",
        phase=2,
        phase_state="passed",
        gates=GATES[:1],
    )
    fleet_rows.decide(database, "better-4d5e6f", "created by admin", at=fleet_rows.NOW - 600)
    fleet_rows.decide(
        database,
        "better-4d5e6f",
        "phase 1 passed: installs: 0 of 1 broken",
        "phase 2 begins: 4 devices",
        phase=1,
        phase_state="offering",
        gates=GATES,
    )
