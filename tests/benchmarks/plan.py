"""A rollout over a million devices: planned, offered in waves, and what they report of it counted.

All on a database file as `shoal serve` opens it, through the classes that it uses; no broker. The
fleet is rows: labels, an inventory as agents send it, and the model that each serves. Planned is
from the file to the first stored decision: capabilities, the cohort, every device's place, and the
counts. `SHOAL_BENCH_DATABASE` names another database, empty, which is then measured too; it stays
as it is left.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from sqlalchemy import func, insert, select, text

from control_plane.broker.inbox import BATCH_MAX
from control_plane.fleet.cohorts import Cohorts
from control_plane.rollouts.draft import draft
from control_plane.rollouts.model import Rollout
from control_plane.rollouts.planner import plan
from control_plane.store.cohorts import CohortRows
from control_plane.store.database import Database
from control_plane.store.devices import Devices
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import device, release, reported
from firmware_bundles import manifest, operations
from firmware_bundles.identifiers import target_path
from firmware_bundles.wire.messages import DeploymentState, FamilyReport, Report, Serving
from support import benchmark, deployments
from support.benchmark import Limit
from support.benchmark import Report as Figures
from support.rollout_fleet import FAMILY, device_row, digest, release_row

DEVICES, ROWS_A_LOAD = 1_000_000, 20_000
PLAN_S_MAX: Final = {"sqlite": 10.0, "postgresql": 30.0}
DEVICES_PER_S_MIN = 10_000
PEER_PER_MINUTE = 1_000  # AWS IoT: `maximumPerMinute` of a deployment, by its documentation

FILE = b"""
family: digits
release: "2"
cohort: everywhere
phases: [{share: 0.1, soak_s: 0}, {share: 0.5, soak_s: 0}, {share: 1.0, soak_s: 0}]
"""


class _Release(NamedTuple):
    path: str
    digest: str
    is_withdrawn: bool = False


class _Releases:
    """The one release that the benchmark rolls out."""

    def find(self, family: str, version: str) -> _Release:
        return _Release(target_path(family, version), digest(version))

    def file(self, _digest: str, name: str) -> bytes:
        """No bundle has files here."""
        raise KeyError(name)

    def manifest(self, _digest: str) -> manifest.Manifest:
        return manifest.parse(deployments.Release("2").manifest)


def measure(devices: int) -> Figures:
    """Measure SQLite in a temporary folder, and the database that the environment names."""
    limits: list[Limit] = []
    figures: dict[str, Any] = {"devices": devices}
    with tempfile.TemporaryDirectory() as folder:
        _measure(f"sqlite:///{Path(folder) / 'shoal.db'}", devices, limits, figures)
    if url := os.environ.get("SHOAL_BENCH_DATABASE"):
        _measure(url, devices, limits, figures)
    else:
        figures["postgresql"] = "not measured: SHOAL_BENCH_DATABASE names none"
    hours = devices / PEER_PER_MINUTE / 60
    figures["the same at 1,000 a minute (AWS IoT), hours"] = round(hours, 1)
    return Figures(limits=limits, figures=figures)


def _measure(url: str, devices: int, limits: list[Limit], figures: dict[str, Any]) -> None:
    database = Database.open(url)
    with database.reading() as connection:
        name = connection.dialect.name
    with _timed(figures, f"{name}: fleet loaded, s"):
        _load(database, devices)
    rollouts = Rollouts(database)
    rollout, took_s = _plan(database, rollouts, figures, name)
    scaled_s = took_s * DEVICES / devices
    limits.append(_limit(f"{name}: planned, a million", scaled_s, "s", PLAN_S_MAX[name]))
    with _timed(figures, f"{name}: waves, s"):
        offered, per_s = _offer_all(rollouts, rollout)
    assert len(offered) == devices
    limits.append(_at_least(f"{name}: waves claimed", per_s))
    figures[f"{name}: a view with all under way, s"] = _took(lambda: rollouts.view(rollout))
    with _timed(figures, f"{name}: statuses, s"):
        per_s = _report_all(database, offered)
    limits.append(_at_least(f"{name}: statuses updated", per_s))
    figures[f"{name}: a view with all committed, s"] = _took(lambda: rollouts.view(rollout))
    committed = sum(counts.committed for counts in rollouts.view(rollout).phases)
    assert committed == devices, f"{committed} of {devices} are counted as committed"
    database.close()


def _limit(what: str, value: float, unit: str, limit: float) -> Limit:
    return Limit(what=what, value=value, unit=unit, limit=limit)


def _at_least(what: str, per_s: float) -> Limit:
    return Limit(what=what, value=per_s, unit="devices/s", limit=DEVICES_PER_S_MIN, bound=">=")


def _plan(
    database: Database, rollouts: Rollouts, figures: dict[str, Any], name: str
) -> tuple[Rollout, float]:
    cohorts = Cohorts(CohortRows(database), Devices(database), time.time)
    cohorts.create("everywhere", "site")
    began = time.perf_counter()
    with _timed(figures, f"{name}: cohort and capabilities, s"):
        drafted = draft(FILE, _Releases(), cohorts, now=1.0, by="bench", suffix="1")
    with _timed(figures, f"{name}: places, s"):
        rollouts.create(drafted.rollout, drafted.chosen.members)
    with _timed(figures, f"{name}: first view and decision, s"):
        planned = plan(drafted.rollout, rollouts.view(drafted.rollout), 2.0)
        rollout = rollouts.save(drafted.rollout, planned, 2.0)
    return rollout, time.perf_counter() - began


def _offer_all(rollouts: Rollouts, rollout: Rollout) -> tuple[list[str], float]:
    """Carry out the offers of all phases at once, wave by wave."""
    view = rollouts.view(rollout)
    (order,) = plan(rollout, view, 2.0).orders
    order = type(order)(phase=2, first=0, end=view.members, action=order.action)
    offered: list[str] = []
    began = time.perf_counter()
    while wave := rollouts.carry_out(rollout, order, 3.0):
        offered += wave
    return offered, len(offered) / (time.perf_counter() - began)


def _report_all(database: Database, offered: list[str]) -> float:
    """Store a checked report of each device, in batches as a busy inbox makes them."""
    devices, serving = (
        Devices(database),
        Serving(
            digest=digest("2"),
            version="2",
            runtime="ai-edge-litert 2.1.6",
            delegate="",
            since=4.0,
            answered=0,
        ),
    )
    began = time.perf_counter()
    for start in range(0, len(offered), BATCH_MAX):
        batch = [
            Report(
                device=device_id,
                incarnation="0" * 16,
                counter=1,
                time=4.0,
                agent_version="1.0",
                families=(
                    FamilyReport(
                        family=FAMILY,
                        generation=3,
                        state=DeploymentState.COMMITTED,
                        serving=serving,
                    ),
                ),
                inventory=_inventory(0),
            )
            for device_id in offered[start : start + BATCH_MAX]
        ]
        devices.accept_reports(batch, 4.0)
    return len(offered) / (time.perf_counter() - began)


def _load(database: Database, devices: int) -> None:
    with database.transaction() as connection:
        connection.execute(insert(release), [release_row(1), release_row(2)])
        for start in range(0, devices, ROWS_A_LOAD):
            numbers = range(start, min(start + ROWS_A_LOAD, devices))
            rows = [_device(number) for number in numbers]
            connection.execute(insert(device), rows)
            connection.execute(insert(reported), [_reported(row["id"]) for row in rows])
    with database.transaction() as connection:
        connection.execute(text("ANALYZE"))
        assert connection.execute(select(func.count()).select_from(device)).scalar() == devices


def _device(number: int) -> dict[str, Any]:
    labels = {"site": f"site-{number % 50}", "line": "ab"[number % 2]}
    row = device_row(f"device-{number:07}")
    return row | {"public_key_pem": "k" * 178, "labels": labels, "inventory": _inventory(number)}


def _inventory(number: int) -> dict[str, Any]:
    runtime, versions = list(operations.RUNTIMES.items())[number % len(operations.RUNTIMES)]
    return {
        "arch": "aarch64",
        "kernel": "6.1.0-18-arm64",
        "memory_bytes": (1 + number % 4) * 2**30,
        "processors": 4,
        "python": "3.11.2",
        "runtime": runtime,
        "operation_versions": versions,
        "agent_version": "1.0",
    }


def _reported(device_id: str) -> dict[str, Any]:
    return {
        "device_id": device_id,
        "family": FAMILY,
        "generation": 1,
        "state": "committed",
        "serving_digest": digest("1"),
        "serving_version": "1",
        "received": 0.0,
    }


def _took(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@contextmanager
def _timed(figures: dict[str, Any], what: str) -> Iterator[None]:
    began, used = time.perf_counter(), time.process_time()
    yield
    figures[what] = time.perf_counter() - began
    figures[f"{what} of processor"] = time.process_time() - used


if __name__ == "__main__":
    sys.exit(benchmark.main("plan", measure, numbers={"devices": DEVICES}))
