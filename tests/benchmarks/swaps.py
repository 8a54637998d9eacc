"""200 swaps under load: no request fails, and each answer is of the version that it names."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from agent.deployment import slots
from agent.inference.control import Done, Swap
from agent.inference.supervisor import INFERENCE_SOCKET
from support import benchmark, workers
from support.benchmark import Limit, Report
from support.bundles import Sample, images
from support.raw_client import RawClient, request
from support.workers import Device

_CLIENTS = 4
_KILLS = 5
_VERSIONS = {"A": b"v1", "B": b"v2"}


class Load(threading.Thread):
    """Asks all the time; holds each answer against what the version that it names gives."""

    def __init__(self, path: Path, asked: list[bytes], expected: dict[bytes, list[bytes]]) -> None:
        super().__init__(daemon=True)
        self.answers = dict.fromkeys(expected, 0)
        self.failed = self.wrong = 0
        self.is_ending = False
        self._path, self._asked, self._expected = path, asked, expected

    def run(self) -> None:
        """Ask until told to end."""
        while not self.is_ending:
            try:
                with RawClient(self._path) as client:
                    self._ask(client)
            except (OSError, AssertionError):
                self.failed += 1

    def _ask(self, client: RawClient) -> None:
        place = 0
        while not self.is_ending:
            place = (place + 1) % len(self._asked)
            version, outputs = _parts(client.ask(self._asked[place]))
            self.answers[version] += 1
            self.wrong += outputs != self._expected[version][place]


def _parts(body: bytes) -> tuple[bytes, bytes]:
    """Return the version that an answer names, and its outputs."""
    _, _, rest = body.partition(b'"model_version":"')
    return rest[: rest.index(b'"')], rest[rest.index(b'"outputs":') :]


def _serve(device: Device, name: str) -> None:
    root = device.state_dir / "slots"
    slots.switch(root, slots.slot(root, "digits", name))
    answer = device.call(Swap("digits"))
    assert isinstance(answer, Done)
    assert (answer.family.version or "").encode() == _VERSIONS[name]


def _expected(device: Device, asked: list[bytes]) -> dict[bytes, list[bytes]]:
    found = {}
    for name, version in _VERSIONS.items():
        _serve(device, name)
        with RawClient(device.run_dir / INFERENCE_SOCKET) as client:
            found[version] = [_parts(client.ask(each))[1] for each in asked]
    return found


def measure(swaps: int, requests: int) -> Report:
    """Swap at an even pace until both counts are reached."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        state = Path(folder)
        Sample("v1").put(state, "A")
        Sample("v2").put(state, "B", serve=False)
        with workers.device(state) as device, device.running():
            asked = [request("digits", image) for image in images(400)]
            expected = _expected(device, asked)
            telling = [p for p in range(400) if len({each[p] for each in expected.values()}) > 1]
            asked = [asked[place] for place in telling]
            expected = {v: [each[place] for place in telling] for v, each in expected.items()}
            path = device.run_dir / INFERENCE_SOCKET
            loads = [Load(path, asked, expected) for _ in range(_CLIENTS)]
            began = time.monotonic()
            for load in loads:
                load.start()
            for turn in range(swaps):
                while _count(loads) < requests * (turn + 1) // swaps:
                    time.sleep(0.001)
                _serve(device, "AB"[turn % 2])
            for load in loads:
                load.is_ending = True
            for load in loads:
                load.join()
            seconds = time.monotonic() - began
            deaths = device.supervisor.deaths
            restarts = [_restart_s(device, asked[0]) for _ in range(_KILLS)]
    report = _report(loads, deaths, swaps, requests, seconds, len(telling))
    slowest = Limit(what="a killed worker serves again, slowest", value=max(restarts), unit="s",
                    limit=1.0)  # fmt: skip
    figures = {"a killed worker serves again, median, s": median(restarts), **report.figures}
    return Report(limits=[*report.limits, slowest], figures=figures)


def _restart_s(device: Device, asked: bytes) -> float:
    """Kill the worker, ask at once, and return how long the answer took.

    Deaths that follow on each other, as here, have a pause of 50 ms between them.
    """
    killed = device.supervisor.pid
    device.kill()
    began = time.monotonic()
    while device.supervisor.pid == killed:  # until then its own backlog is not the next one's
        time.sleep(0.001)
    with RawClient(device.run_dir / INFERENCE_SOCKET) as client:
        client.ask(asked)
    return time.monotonic() - began


def _count(loads: list[Load]) -> int:
    return sum(sum(load.answers.values()) for load in loads)


def _report(
    loads: list[Load], deaths: int, swaps: int, requests: int, seconds: float, telling: int
) -> Report:
    by_version = {v: sum(load.answers[v] for load in loads) for v in _VERSIONS.values()}
    return Report(
        limits=[
            Limit(
                what="requests that failed", value=sum(e.failed for e in loads), unit="", limit=0
            ),
            Limit(
                what="answers that were wrong", value=sum(e.wrong for e in loads), unit="", limit=0
            ),
            Limit(what="deaths of the worker", value=deaths, unit="", limit=0),
            Limit(what="requests", value=_count(loads), unit="", limit=requests, bound=">="),
        ],
        figures={
            "swaps": swaps,
            "inputs, all of which tell the versions apart": telling,
            **{f"answers of {v.decode()}": count for v, count in by_version.items()},
            "requests/s meanwhile": _count(loads) / seconds,
        },
    )


if __name__ == "__main__":
    numbers = {"swaps": 200, "requests": 100_000}
    sys.exit(benchmark.main("swaps", measure, numbers=numbers))
