"""One fleet of simulated devices from enrolment to windows, and what it cost; for a benchmark.

A control plane with a mosquitto of its own, TLS and client certificates, and all devices in one
process. What is measured stands in `Seen`; what it must be is the benchmark's affair.
"""

from __future__ import annotations

import base64
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, Final, NamedTuple

import httpx

from control_plane.telemetry.merge import merge
from firmware_bundles import manifest
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches.baseline import Baseline
from fleet import Installation
from processes import children_of
from support import process_cost
from support.simulated.behaviour import Behaviour, Dealt
from support.simulated.handle import Simulation, simulation

PHASES: Final = (0.01, 0.1, 1.0)
SOAK_S: Final = 2.0
PROBATION_S: Final = 30.0
# What the devices are like, and what a simulation of the rollout is told to assume.
BEHAVIOUR: Final = Behaviour(install_s=10.0, bytes_per_s=10_000.0)
ASSUMED: Final = {
    **dict.fromkeys(("failed", "rolled_back", "silent", "offline", "slow", "drifting"), 0),
    "install_s": BEHAVIOUR.install_s,
    "bytes_per_s": BEHAVIOUR.bytes_per_s,
    "runs": 5,
}
_SEED: Final = 20_261_121
_WINDOWS: Final = 3
_LOOK_S: Final = 0.5
_SETTLE_S_MAX: Final = 300.0
_ROLLOUT_S_MAX: Final = 900.0
_CONNECT_S_MAX: Final = 300.0

FILE: Final = """\
schema: "1.0"
id: {name}
family: digits
release: "{release}"
cohort: everywhere
probation_s: {probation_s}
phases:
{phases}
gates:
  installs: {{failed_share_max: 0.0}}
"""


class Rolled(NamedTuple):
    """One rollout: how it ended, seconds of its phases without their soaks, bytes of its models."""

    state: str
    seconds: float
    model_bytes: int
    wire_bytes: int


class Foreseen(NamedTuple):
    """What a simulation says of a rollout: medians of its seconds without soaks, and of bytes."""

    seconds: float
    model_bytes: float


class Seen(NamedTuple):
    """All that a run found."""

    enrolled: int
    enrol_s: float
    connected: int
    connect_s: float
    first: Rolled
    second: Rolled
    foreseen: Foreseen | None
    differing: int
    windows_sealed: int
    windows_stored: int
    windows_unlike: int
    windows_s: float
    refused: dict[str, int]
    megabytes: dict[str, float]
    cpu_s: dict[str, float]


def run(site: Installation, devices: int) -> Seen:
    """Let a fleet of so many devices go through its life once."""
    site.settings["SHOAL_PATCH_BYTES_MAX"] = "0"  # simulated devices fetch files, not patches
    site.start_server()
    site.shoal("keys", "init", "--out", str(site.keys), "--family", "digits")
    for version in ("1", "2"):
        site.publish(f"v{version}", version)
    with simulation(site) as fleet, _watched(site, fleet) as costs:
        mix = [Dealt(share=1.0, behaviour=BEHAVIOUR)]
        enrolled = fleet.enrol(site, devices, seed=_SEED, mix=mix, labels={"site": "bench"})
        connected = fleet.tell("start", over_s=devices / 100, within_s=_CONNECT_S_MAX)
        site.shoal("cohort", "create", "everywhere", "--selector", "site=bench")
        first = _roll_out(site, fleet, "1")
        foreseen = _foresee(site, "2")
        second = _roll_out(site, fleet, "2")
        began = time.monotonic()
        fleet.tell("windows", count=_WINDOWS, over_s=devices / 100)
        fleet.tell("settle", within_s=_SETTLE_S_MAX)
        windows_s = time.monotonic() - began
        tally = fleet.tell("tally")
        return Seen(
            enrolled=len(enrolled["devices"]),
            enrol_s=enrolled["seconds"],
            connected=connected["up"],
            connect_s=connected["seconds"],
            first=first,
            second=second,
            foreseen=foreseen,
            differing=_differing(site, tally),
            windows_sealed=sum(each["sealed"] for each in tally["devices"]),
            windows_stored=len(_windows(site)),
            windows_unlike=_unlike(site, tally),
            windows_s=windows_s,
            refused=tally["refused"],
            megabytes=costs.megabytes,
            cpu_s=costs.cpu_s,
        )


def rollout_file(name: str, release: str) -> str:
    """Return the rollout that is measured, which a simulator may be asked about as well."""
    phases = "\n".join(f"  - {{share: {share}, soak_s: {SOAK_S}, timeout_s: 600}}"
                       for share in PHASES)  # fmt: skip
    return FILE.format(name=name, release=release, probation_s=PROBATION_S, phases=phases)


def _roll_out(site: Installation, fleet: Simulation, release: str) -> Rolled:
    name = f"release-{release}"
    before = _wire_bytes(fleet)
    site.post("/rollouts", rollout_file(name, release))
    deadline = time.monotonic() + _ROLLOUT_S_MAX
    while (found := site.get(f"/rollouts/{name}"))["state"] == "running":
        if time.monotonic() > deadline:
            break
        time.sleep(_LOOK_S)
    tally = fleet.tell("tally")["devices"]
    return Rolled(
        state=found["state"],
        seconds=_offering_s(found["decisions"]),
        model_bytes=sum(each["chunk_bytes"] for each in tally),
        wire_bytes=sum(each["wire_bytes"] for each in tally) - before,
    )


def _foresee(site: Installation, release: str) -> Foreseen | None:
    """Ask for a simulation of the rollout; None where the control plane has none."""
    query = "&".join(f"{name}={value}" for name, value in ASSUMED.items())
    try:
        found = site.post(f"/rollouts/simulate?{query}", rollout_file("foreseen", release))
    except httpx.HTTPStatusError as error:
        if error.response.status_code in {httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED}:
            return None
        raise
    middle, all_of_them = found["quantiles"].index(0.5), found["as_assumed"]
    seconds = all_of_them["duration_s"][middle] - all_of_them["soaked_s"][middle]
    return Foreseen(seconds, all_of_them["bytes"][middle])


def _wire_bytes(fleet: Simulation) -> int:
    return sum(each["wire_bytes"] for each in fleet.tell("tally")["devices"])


def _offering_s(decisions: list[dict[str, Any]]) -> float:
    """Return the seconds from each phase's first offer to its soak, added up."""
    total, began = 0.0, 0.0
    for each in decisions:
        if each["phase_state"] == "offering":
            began = each["at"]
        elif each["phase_state"] == "soaking":
            total += each["at"] - began
    return total


def _differing(site: Installation, tally: dict[str, Any]) -> int:
    """Count the devices whose last signed report, as stored, is not what they said last."""
    with _database(site) as database:
        counters = dict(
            database.execute("select device_id, max(counter) from report_counter group by 1")
        )
        told = {
            row[0]: row[1:]
            for row in database.execute(
                "select device_id, generation, state, serving_digest from reported"
            )
        }
    return sum(
        counters.get(each["device"]) != each["counter"]
        or told.get(each["device"]) != (each["generation"], each["state"], each["serving"])
        for each in tally["devices"]
    )


def _windows(site: Installation) -> list[tuple[str, bytes]]:
    with _database(site) as database:
        rows = database.execute("select model, body from segment where kind = 'window'")
        return [(str(model), bytes(body)) for model, body in rows]


def _unlike(site: Installation, tally: dict[str, Any]) -> int:
    """Count the models of which the sum of all stored windows is not what all devices counted."""
    stored: dict[str, list[bytes]] = {}
    for model, body in _windows(site):
        stored.setdefault(model, []).append(body)
    unlike = 0
    for model, pooled in tally["pooled"].items():
        merged = merge(_baseline(site, model), stored.get(model, ()))
        same = sketch_codec.encode_sketch(merged.sketch) == base64.b64decode(pooled)
        unlike += not same or merged.unreadable > 0
    return unlike


def _baseline(site: Installation, model: str) -> Baseline:
    with _database(site) as database:
        (body,) = database.execute(
            "select manifest from release where digest = ?", (model,)
        ).fetchone()
    facts = manifest.parse(bytes(body))
    entry = facts.file(facts.baseline or "")
    return sketch_codec.parse_baseline(
        b"".join(site.fetch(f"/chunks/{digest}") for digest in entry.chunks)
    )


@contextmanager
def _database(site: Installation) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{site.data / 'shoal.db'}?mode=ro", uri=True)) as database:
        yield database


class _Costs(NamedTuple):
    """The most memory (PSS) of each process, and its processor time so far."""

    megabytes: dict[str, float]
    cpu_s: dict[str, float]


@contextmanager
def _watched(site: Installation, fleet: Simulation) -> Iterator[_Costs]:
    """Look at the processes again and again."""
    assert site.server is not None
    (broker,) = children_of(site.server.pid)
    pids = {"control plane": site.server.pid, "broker": broker, "simulated devices": fleet.pid}
    costs, ended = _Costs({}, {}), threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            for name, pid in pids.items():
                with suppress(OSError):
                    found = process_cost.memory_mb(pid)["Pss"]
                    costs.megabytes[name] = max(costs.megabytes.get(name, 0.0), found)
                    costs.cpu_s[name] = process_cost.cpu_s(pid)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield costs
    finally:
        ended.set()
        thread.join()
