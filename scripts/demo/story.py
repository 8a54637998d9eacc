"""What happens in the demonstration, step by step, and what is said about it."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from feeder import Feeder, Images
from fleet import SAMPLES, Installation, wait_until
from processes import children_of, command_line, resident_mb
from receiver import Event, Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROLLOUT_S_MAX = 60.0

_FIRST = """\
schema: "1.1"
id: digits-v1
family: digits
release: "1"
cohort: everywhere
probation_s: 1
phases:
  - {share: 1.0, soak_s: 1, timeout_s: 60}
gates:
  installs: {failed_share_max: 0.0}
"""
_STAGED = """\
schema: "1.1"
id: digits-v%(version)s
family: digits
release: "%(version)s"
cohort: everywhere
probation_s: 1
phases:
  - {share: 0.25, mode: shadow, soak_s: 3, timeout_s: 60}
  - {share: 0.25, soak_s: 3, timeout_s: 60, gates: {shadow_pairs: null}}
  - {share: 0.5, soak_s: 2, timeout_s: 60, gates: {shadow_pairs: null}}
  - {share: 1.0, soak_s: 1, timeout_s: 60, gates: {shadow_pairs: null}}
gates:
  installs: {failed_share_max: 0.0}
  label_errors: {margin: 0.1, labels_min: 100, deadline_s: 60}
  shadow_pairs: {labels_min: 100, deadline_s: 60}
policy:
  shadow: {share: 1.0, duration_s: 0.1}
"""


# Windows of few rows, so that a minute holds some of them; 30 rows to a bin at least.
_FEW_ROWS = ("--bins", "5", "--window-rows", "150")


def _tell_event(event: Event) -> None:
    alert = event.said["data"]
    print(f"    event {event.said['type']}: {alert.get('summary', alert)}", flush=True)


class Story:
    """The steps of the demonstration over one installation; keeps what the summary tells."""

    def __init__(self, installation: Installation, devices: int) -> None:
        self.installation = installation
        self.count = devices
        self.feeder = Feeder(Images.load(SAMPLES / "feed.npz"))
        self.seconds: dict[str, float] = {}
        self.rollouts: list[dict[str, Any]] = []
        self.memory: dict[str, float] = {}
        self.failures: list[str] = []
        self.receiver = Receiver(_tell_event)
        self.drift: dict[str, Any] = {}
        # What is a day's work elsewhere has to fit a minute: a device's normal is learnt from so
        # many rows, and windows are tested soon after they came.
        installation.settings |= {
            "SHOAL_WATCH_REFERENCE_ROWS": "450",
            "SHOAL_WATCH_SETTLE_S": "1",
            "SHOAL_TICK_S": "0.25",
        }

    def tell(self) -> None:
        """Do everything once."""
        with self._step("start the control plane"):
            self.installation.start_server()
            print(
                f"    page: {self.installation.url}/"
                f"   log in with the token {self.installation.token}"
            )
            for line in self.installation.notices():
                print(f"    {line}")
        with self._step("make the owners' keys"):
            self.installation.shoal(
                "keys", "init", "--out", str(self.installation.keys), "--family", "digits"
            )
        with self._step("build, sign and publish model 1"):
            self.installation.publish("v1", "1")
        with self._step(f"enrol {self.count} devices and start their agents"):
            self.installation.enrol(self.count)
            for device in self.installation.devices.values():
                device.start()
            self.installation.shoal("cohort", "create", "everywhere", "--selector", "site=demo")
            wait_until(self._all_online, "all devices online", 40)
        with self._step("roll model 1 out to all"):
            self._roll_out("digits-v1", _FIRST, expected="completed")
            wait_until(
                lambda: all(d.serves() for d in self.installation.devices.values()), "all serve", 20
            )
            self.feeder.start(self._sockets())
        with self._step("build, sign and publish model 2, the better one"):
            self.installation.publish("v2", "2", baseline=_FEW_ROWS)
        with self._step("roll model 2 out in phases"):
            self._roll_out("digits-v2", _STAGED % {"version": "2"}, expected="completed")
        with self._step("build, sign and publish model 3, a bad one"):
            self.installation.publish("bad", "3")
        with self._step("start to roll the bad model out"):
            self._roll_out("digits-v3", _STAGED % {"version": "3"}, expected="rolled_back")
        with self._step("one device's images get darker"):
            self._darken_one()
        with self._step("count"):
            self._measure_memory()
            self.feeder.stop()
            self._await_deliveries()

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        print(f"\n==> {name}", flush=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 2)
        print(f"    {self.seconds[name]:.1f} s", flush=True)

    def go_on(self) -> None:
        """Feed the devices again, without counting."""
        self.feeder = Feeder(Images.load(SAMPLES / "feed.npz"))
        self.feeder.start(self._sockets())

    def _darken_one(self) -> None:
        made = self.installation.shoal(
            "--output", "json", "webhook", "add", "demonstration", self.receiver.url,
            "--kind", "change",
        )  # fmt: skip
        # A device that never served the bad model has had the better one for longest.
        tallies = self.feeder.tallies
        device = next(name for name, tally in tallies.items() if "3" not in tally.by_version)
        wait_until(lambda: self._standing(device) == "stable", f"{device} has its normal", 60)
        self.feeder.darken(device)
        print(f"    from now on the images of {device} are darker")
        wait_until(lambda: bool(self.receiver.events), "an event tells of the change", 60)
        print(self.installation.shoal("telemetry", "drift", "--family", "digits", "--columns", "3"))
        event = self.receiver.events[0]
        alert = event.said["data"]
        self.drift = {
            "darkened": device,
            "device": alert["device_id"],
            "columns": [each["column"] for each in alert["details"]["findings"]],
            "event": event.said["type"],
            "is_signed": event.is_from(json.loads(made)["secret"]),
            "changed": [name for name in tallies if self._standing(name) == "changed"],
        }
        if self.drift["changed"] != [device] or self.drift["device"] != device:
            self.failures.append(f"{device} changed, but what is told is {self.drift}")

    def _standing(self, device: str) -> str | None:
        found = self.installation.get("/telemetry/drift", family="digits")
        standings = [
            each["state"]
            for model in found
            if model["version"] == "2"
            for each in model["devices"]
            if each["device_id"] == device
        ]
        return standings[0] if standings else None

    def _sockets(self) -> dict[str, Path]:
        return {device.id: device.socket for device in self.installation.devices.values()}

    def _all_online(self) -> bool:
        for device in self.installation.devices.values():
            device.require_running()
        return (
            sum(
                bool(device["is_online"]) for device in self.installation.get("/devices")["devices"]
            )
            >= self.count
        )

    def _roll_out(self, name: str, text: str, *, expected: str) -> None:
        file = self.installation.root / f"{name}.yaml"
        file.write_text(text)
        self.installation.shoal("rollout", "start", str(file))
        accept = (0,) if expected == "completed" else (3,)
        words = ("rollout", "watch", name, "--timeout", str(int(_ROLLOUT_S_MAX)))
        self.installation.watch(*words, accept=accept)
        seen = self.installation.get(f"/rollouts/{name}")
        self.rollouts.append(
            {
                "id": name,
                "outcome": seen["state"],
                "phases": seen["phases"],
                "why": [decision["why"] for decision in seen["decisions"]],
            }
        )
        if seen["state"] != expected:
            self.failures.append(f"rollout {name} ended as {seen['state']}, not {expected}")

    def _await_deliveries(self) -> None:
        wanted = {device: len(tally.answered) for device, tally in self.feeder.tallies.items()}
        deadline = time.monotonic() + 30
        while self.received() != wanted and time.monotonic() < deadline:
            time.sleep(0.3)
        received = self.received()
        for device, answered in wanted.items():
            if received.get(device) != answered:
                self.failures.append(
                    f"{device} answered {answered} predictions, {received.get(device)} arrived"
                )

    def received(self) -> dict[str, int]:
        """Return how many predictions of each device the control plane holds."""
        rows = self.installation.get("/telemetry/predictions")["devices"]
        totals = dict.fromkeys(self.installation.devices, 0)
        for row in rows:
            totals[row["device_id"]] += int(row["received"])
        return totals

    def _measure_memory(self) -> None:
        server = self.installation.server
        assert server is not None
        self.memory["control plane"] = resident_mb(server.pid)
        for pid in children_of(server.pid):
            if "mosquitto" in command_line(pid):
                self.memory["mosquitto"] = resident_mb(pid)
        cores, workers = [], []
        for device in self.installation.devices.values():
            assert device.core is not None
            cores.append(resident_mb(device.core.pid))
            workers.append(resident_mb(device.worker_pid() or 0))
        self.memory["agent core (median of all)"] = sorted(cores)[len(cores) // 2]
        self.memory["inference worker (median of all)"] = sorted(workers)[len(workers) // 2]

    def result(self) -> dict[str, Any]:
        """Return all that was seen, for the JSON file and the summary."""
        received, devices = self.received(), []
        digests = {
            release["version"]: release["digest"] for release in self.installation.get("/releases")
        }
        for device in self.installation.devices:
            shown = self.installation.get(f"/devices/{device}")
            reported: dict[str, Any] = next(
                (row for row in shown["reported"] if row["family"] == "digits"), {}
            )
            tally = self.feeder.tallies[device]
            devices.append(
                {
                    "device": device,
                    "reported_digest": reported.get("serving_digest"),
                    "reported_version": reported.get("serving_version"),
                    "answered": len(tally.answered),
                    "received": received.get(device, 0),
                    "refused": tally.refused,
                    "labelled": tally.labelled,
                    "answered_by_version": tally.by_version,
                }
            )
            if reported.get("serving_digest") != digests["2"]:
                self.failures.append(f"{device} does not report that it serves model 2")
        return {
            "ok": not self.failures,
            "failures": self.failures,
            "broker": self.installation.get("/status").get("broker"),
            "devices": devices,
            "rollouts": self.rollouts,
            "drift": self.drift,
            "seconds": self.seconds,
            "memory_mb": {name: round(value, 1) for name, value in self.memory.items()},
        }


def print_summary(result: dict[str, Any]) -> None:
    """Print what a reader wants to know at the end."""
    print("\n==> summary")
    for row in result["devices"]:
        print(
            f"    {row['device']}  serves model {row['reported_version']}"
            f" ({str(row['reported_digest'])[:12]})  "
            f"answered {row['answered']:5d}  received {row['received']:5d}"
        )
    for row in result["rollouts"]:
        print(f"    {row['id']}: {row['outcome'].replace('_', ' ')}")
        for reason in row["why"][-1] if row["why"] else ():
            print(f"        {reason}")
    if result["drift"]:
        columns = ", ".join(result["drift"]["columns"][:3])
        print(f"    {result['drift']['device']} changed: {columns} and others")
    for name, value in result["memory_mb"].items():
        print(f"    {name}: {value:.0f} MB")
    print(f"    broker: {result['broker']}, {sum(result['seconds'].values()):.0f} s in all")
    for failure in result["failures"]:
        print(f"    NOT AS IT SHOULD BE: {failure}")
