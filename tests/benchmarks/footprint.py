"""What an idle device costs: memory of core and worker, processor time and bytes an hour.

One device with the digits model over a mosquitto with TLS in both directions, all settings at their
defaults. How it is measured: docs/reference/benchmarks.md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.config import Config
from agent.identity import FACTS, FOLDER, Facts
from agent.inference.settings import Settings
from fleet import Device, Installation, remove, wait_until
from processes import children_of
from support import benchmark, process_cost
from support.benchmark import Limit, Report
from support.installations import serve_first_model
from support.mqtt_tap import Tap

WINDOW_S = float(os.environ.get("SHOAL_BENCH_WINDOW_S", "120"))
_CORE_MB_MAX = 30.0
_HOUR_S = 3600.0
_REPORT_S = 10  # in the run that finds what one report costs
_REPORTS = 6
_HEADER_BYTES = 52  # IPv4 and TCP with timestamps, a segment
_DEFAULTS = Config(state_dir=Path(), run_dir=Path())


class Window(NamedTuple):
    """What was counted in a span of time."""

    seconds: float
    core_s: float
    children_s: float
    worker_s: float
    bytes: Counter[str]
    pings: int
    tcp_bytes: int
    segments: int


class Idle(NamedTuple):
    """A device that has nothing to do."""

    core: int
    worker: int
    tap: Tap

    def watch(self, seconds: float) -> Window:
        """Count for a while."""
        began, before = time.monotonic(), self._times()
        carried = self.tap.transferred()
        time.sleep(seconds)
        ended, after, now = time.monotonic(), self._times(), self.tap.transferred()
        core_s, children_s, worker_s = (b - a for a, b in zip(before, after, strict=True))
        return Window(
            seconds=ended - began,
            core_s=core_s,
            children_s=children_s,
            worker_s=worker_s,
            bytes=self.tap.count(began, ended),
            pings=self.tap.pings(began, ended),
            tcp_bytes=now.bytes - carried.bytes,
            segments=now.segments - carried.segments,
        )

    def _times(self) -> tuple[float, float, float]:
        cpu_s, children_s = process_cost.cpu_s, process_cost.children_cpu_s
        return cpu_s(self.core), children_s(self.core), cpu_s(self.worker)


@contextmanager
def _idle(device: Device, tap: Tap, **settings: str) -> Iterator[Idle]:
    """Start the agent, and wait until it has said all that it says at a start."""
    worker_defaults = {
        f"SHOAL_INFERENCE_{name.upper()}": str(getattr(Settings(), name))
        for name in ("segment_age_s", "window_age_s")
    }
    began = time.monotonic()
    device.start(**worker_defaults, **settings)
    assert device.core is not None
    core = device.core.pid

    def is_quiet() -> bool:
        device.require_running()
        said = tap.count(began)
        is_told = said["report"] > 0 and said["hello"] > 0 and device.serves()
        return is_told and children_of(core) == [device.worker_pid()]

    wait_until(is_quiet, "the device has nothing to do", 90)
    worker = device.worker_pid()
    assert worker is not None
    yield Idle(core, worker, tap)
    device.stop()


def _behind(tap: Tap, device: Device) -> None:
    """Let the device take the tap for its broker."""
    path = device.state / FOLDER / FACTS
    facts = msgspec.json.decode(path.read_bytes(), type=Facts)
    broker = f"mqtts://127.0.0.1:{tap.port}"
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(facts, broker=broker)))


def measure() -> Report:
    """Measure one device: first what a report costs, then what idling does, then memory."""
    root = Path(tempfile.mkdtemp(prefix="shoal-bench-"))
    installation = Installation(root, broker="mosquitto")
    try:
        serve_first_model(installation, 1)
        (device,) = installation.devices.values()
        device.stop()
        tap = Tap(installation.data / "broker", device.state / FOLDER, installation.broker_port)
        _behind(tap, device)
        with _idle(device, tap, SHOAL_AGENT_REPORT_S=str(_REPORT_S)) as busy:
            reporting = busy.watch(_REPORT_S * _REPORTS)
        began = time.monotonic()
        with _idle(device, tap) as idle:
            start = tap.count(began)
            window = idle.watch(WINDOW_S)
            assert installation.server is not None
            installation.server.stop()  # so that it shares no pages with the agent
            with process_cost.bare_core() as bare:
                memory = {
                    name: process_cost.memory_mb(pid)
                    for name, pid in (("core", idle.core), ("worker", idle.worker), ("bare", bare))
                }
        tap.close()
    finally:
        installation.stop()
        remove(root)
    return _report(window, reporting, start, memory)


def _report(
    window: Window, reporting: Window, start: Counter[str], memory: dict[str, dict[str, float]]
) -> Report:
    hourly = _HOUR_S / window.seconds
    reports = _HOUR_S / _DEFAULTS.report_s
    quiet_core_s = window.core_s / window.seconds * reporting.seconds
    report_core_s = max(0.0, reporting.core_s - quiet_core_s) / _REPORTS
    report_child_s = reporting.children_s / _REPORTS
    items = {
        purpose: window.bytes[purpose] * hourly for purpose in ("telemetry", "refresh", "hello")
    }
    # By their periods, not by how many happened to fall into the window.
    items["keepalive"] = window.bytes["keepalive"] / window.pings * _HOUR_S / _DEFAULTS.keepalive_s
    items["report"] = reporting.bytes["report"] / _REPORTS * reports
    core_s = window.core_s * hourly + report_core_s * reports
    return Report(
        limits=[
            Limit(
                what="idle core, proportional set size",
                value=memory["core"]["Pss"],
                unit="MB",
                limit=_CORE_MB_MAX,
            )
        ],
        figures={
            **{
                f"{what}, {size}, MB": value
                for what, sizes in memory.items()
                for size, value in sizes.items()
            },
            "measured window, s": window.seconds,
            "keepalives in the window": window.pings,
            "processor, core, s an hour": core_s,
            "processor, its tasks for reports, s an hour": report_child_s * reports,
            "processor, worker, s an hour": window.worker_s * hourly,
            **{f"bytes an hour, {what}": value for what, value in items.items()},
            "bytes an hour, in all": sum(items.values()),
            "bytes an hour, in all, with IP and TCP headers": sum(items.values())
            + (window.segments * hourly + 4 * reports) * _HEADER_BYTES,
            "window: bytes by TCP less bytes by purpose": window.tcp_bytes
            - sum(window.bytes.values()),
            **{f"bytes of one start, {what}": value for what, value in sorted(start.items())},
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("footprint", measure))
