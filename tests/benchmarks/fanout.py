"""One model to many devices: what the publisher sends, and what the fan-out costs the broker.

1, 20 and 200 devices fetch 10 MiB of retained chunks over a mosquitto of its own (no TLS, on
loopback), once with the agent's own connection, download and disk, once as bare clients with the
same window. The rounds of both alternate; figures are medians.
"""

from __future__ import annotations

import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from control_plane.broker.client import BrokerClient
from control_plane.broker.endpoint import Endpoint
from firmware_bundles.chunks import Chunk, cut, digest_of
from firmware_bundles.wire import topics
from support import benchmark, process_cost
from support.benchmark import Limit, Report
from support.brokers import bare_mosquitto

_BYTES = 10 * 1024 * 1024
_FLEETS = (1, 20, 200)
_ROUNDS = 3
_PROCESSES_MAX = 4
_SENT_RATIO_MAX = 1.01
_CPU_RATIO_MAX = 1.3
_BYTES_ACKED = slice(120, 128)  # tcpi_bytes_acked of struct tcp_info (linux/tcp.h)


class Run(NamedTuple):
    """One fleet, once."""

    whole: int
    seconds: float
    broker_s: float


class _Publisher:
    """The control plane's own client, with what went over its socket."""

    def __init__(self, port: int, chunks: list[Chunk]) -> None:
        self._client = BrokerClient(Endpoint("127.0.0.1", port, is_tls=False), None)
        self._client.start(on_message=lambda *_: None, on_connect=lambda: None)
        for chunk in chunks:
            self._client.publish(topics.chunk(chunk.digest), chunk.data, retain=True)
        assert self._client.flush(30.0)

    def sent_bytes(self) -> int:
        """Return what the broker's side acknowledged since the connection began (TCP)."""
        connection = self._client._client.socket()
        assert isinstance(connection, socket.socket)
        facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        (acked,) = struct.unpack("=Q", facts[_BYTES_ACKED])
        return int(acked)

    def close(self) -> None:
        """Leave."""
        self._client.stop()


def _fleet(kind: str, count: int, port: int, broker: int, file: str, folder: Path) -> Run:
    """Let `count` devices of a kind fetch the file at once."""
    processes = min(_PROCESSES_MAX, count)
    shares = [count // processes + (place < count % processes) for place in range(processes)]
    with ExitStack() as stack:
        running = [
            stack.enter_context(_devices(kind, share, f"{kind}{place}", port, file, folder))
            for place, share in enumerate(shares)
        ]
        began, before = time.monotonic(), process_cost.cpu_s(broker)
        _tell(running, "go")
        whole = sum(int(_said(each)) for each in running)
        seconds, broker_s = time.monotonic() - began, process_cost.cpu_s(broker) - before
        _tell(running, "end")
        for each in running:
            each.wait(60)
    return Run(whole, seconds, broker_s)


@contextmanager
def _devices(
    kind: str, count: int, name: str, port: int, file: str, folder: Path
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "support.fanout_devices", kind, str(port), str(count)]
    with subprocess.Popen(
        [*command, name, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as running:
        _tell([running], file)
        assert _said(running) == "ready"
        yield running


def _tell(running: list[subprocess.Popen[str]], line: str) -> None:
    for each in running:
        assert each.stdin is not None
        each.stdin.write(line + "\n")
        each.stdin.flush()


def _said(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def measure() -> Report:
    """Publish once, then fetch with every fleet."""
    data = os.urandom(_BYTES)
    chunks = list(cut(data))
    file = " ".join([str(len(data)), digest_of(data), *(chunk.digest for chunk in chunks)])
    runs: dict[tuple[str, int], list[Run]] = {}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        with bare_mosquitto(folder) as (port, broker):
            publisher = _Publisher(port, chunks)
            for count in _FLEETS:
                for number in range(_ROUNDS):
                    for kind in ("bare", "agent"):
                        place = folder / f"{count}-{number}"
                        run = _fleet(kind, count, port, broker, file, place)
                        runs.setdefault((kind, count), []).append(run)
                        print(f"{kind} x{count}: {run}", file=sys.stderr)
            sent = publisher.sent_bytes()
            publisher.close()
    return _report(runs, sent)


def _report(runs: dict[tuple[str, int], list[Run]], sent: int) -> Report:
    astray = sum(
        count * len(found) - sum(run.whole for run in found) for (_, count), found in runs.items()
    )
    sent_what = "publisher's bytes, headers included, over the model's"
    limits = [
        Limit(what=sent_what, value=sent / _BYTES, unit="x", limit=_SENT_RATIO_MAX),
        Limit(what="devices without the whole model", value=astray, unit="", limit=0),
    ]
    figures: dict[str, object] = {}
    for count in _FLEETS:
        bare, own = runs["bare", count], runs["agent", count]
        ratio = statistics.median(a.broker_s / b.broker_s for a, b in zip(own, bare, strict=True))
        what = f"broker CPU, {count} agents over bare clients"
        if count == 1:  # a few ticks of a clock
            figures[what] = ratio
        else:
            limits.append(Limit(what=what, value=ratio, unit="x", limit=_CPU_RATIO_MAX))
        for kind, found in (("bare", bare), ("agent", own)):
            middle = statistics.median(run.broker_s for run in found)
            figures[f"{count} {kind}: broker CPU, s"] = middle
            figures[f"{count} {kind}: seconds"] = statistics.median(run.seconds for run in found)
    figures["megabytes if each were sent its own"] = _FLEETS[-1] * _BYTES / 1e6
    return Report(limits=limits, figures=figures)


if __name__ == "__main__":
    sys.exit(benchmark.main("fanout", measure))
