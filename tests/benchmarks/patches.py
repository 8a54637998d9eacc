"""Patches: their bytes, and the time and memory that applying one takes, next to other tools.

The peers come from Debian: apt-get install bsdiff xdelta3 zstd. Sizes are what goes over the line:
the patch, with the index of its chunks if it has several; "not kept" is one that saves too little,
for which the file itself is sent. Memory is VmHWM of the process that applies: a real `agent.task`
for ours, which also verifies and syncs every chunk, the tool for peers, unless it ends too soon to
be looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.deployment.chunk_store import ChunkStore
from agent.task_messages import LENGTH_BYTES, Answer, Applied, ApplyPatch, Request, frame
from control_plane.releases import patch_plan
from firmware_bundles import chunks, patches
from firmware_bundles.manifest import FileEntry
from support import benchmark, patch_pairs
from support.benchmark import Limit, Report
from support.patch_pairs import Pair

_HEAD_SHARE_MAX = 0.05
_MEMORY_MB_MAX = 12.0
_NS_PER_MS = 1e6
_SEEN_MS_MIN = 20.0


class Peer(NamedTuple):
    """Another tool: how it makes a patch and how it applies one."""

    program: str
    package: str
    make: Sequence[str]
    apply: Sequence[str]


PEERS = {
    "bsdiff": Peer("bsdiff", "bsdiff", ("bsdiff", "old", "new", "patch"),
                   ("bspatch", "old", "made", "patch")),
    "xdelta3": Peer("xdelta3", "xdelta3",
                    ("xdelta3", "-e", "-9", "-S", "djw", "-f", "-s", "old", "new", "patch"),
                    ("xdelta3", "-d", "-f", "-s", "old", "patch", "made")),
    "zstd --patch-from": Peer("zstd", "zstd",
                              ("zstd", "-q", "-f", "-19", "--long=27", "--patch-from=old", "new",
                               "-o", "patch"),
                              ("zstd", "-q", "-f", "-d", "--long=27", "--patch-from=old", "patch",
                               "-o", "made")),
    "zstd, no source": Peer("zstd", "zstd", ("zstd", "-q", "-f", "-19", "new", "-o", "patch"),
                            ("zstd", "-q", "-f", "-d", "patch", "-o", "made")),
}  # fmt: skip


class Cost(NamedTuple):
    """Bytes of a patch, and what applying it took."""

    bytes: int
    apply_ms: float
    memory_mb: float


def _high_water_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) / 1024 if found else 0.0


def _peer(peer: Peer, pair: Pair, folder: Path) -> Cost:
    (folder / "old").write_bytes(pair.source)
    (folder / "new").write_bytes(pair.target)
    subprocess.run(peer.make, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    began, memory_mb = time.perf_counter_ns(), 0.0
    with subprocess.Popen(peer.apply, cwd=folder) as running:
        while running.poll() is None:
            memory_mb = max(memory_mb, _high_water_mb(running.pid))
            os.sched_yield()
    took = time.perf_counter_ns() - began
    assert (folder / "made").read_bytes() == pair.target
    return Cost((folder / "patch").stat().st_size, took / _NS_PER_MS, memory_mb)


class Task:
    """One short-lived child of the agent, spoken to as the core does."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-m", "agent.task"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, request: Request) -> Answer:
        """Return the answer."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(frame(request))
        self._child.stdin.flush()
        length = int.from_bytes(self._child.stdout.read(LENGTH_BYTES), "big")
        said: Answer = msgspec.json.decode(self._child.stdout.read(length), type=Answer)
        return said

    def memory_mb(self) -> float:
        """The most memory that it ever had."""
        return _high_water_mb(self._child.pid)

    def end(self) -> None:
        """Let it go."""
        self._child.communicate()


def _ours(pair: Pair, folder: Path) -> Cost:
    data = patches.create(pair.source, pair.target)
    content = chunks.pack(data)
    store = ChunkStore(folder / "chunks")
    for digest, piece in content.chunks:
        store.save(digest, piece)
    (folder / "old").write_bytes(pair.source)
    listed = [chunk.digest for chunk in content.chunks]
    target = tuple(chunk.digest for chunk in chunks.cut(pair.target))
    entry = FileEntry(
        name="model.tflite",
        length=len(pair.target),
        digest=chunks.digest_of(pair.target),
        chunks=target,
    )
    request = ApplyPatch(
        chunks_dir=str(folder / "chunks"),
        source=str(folder / "old"),
        patch=tuple(listed[:-1] if chunks.needs_index(len(data)) else listed),
        target=entry,
    )
    task = Task()
    began = time.perf_counter_ns()
    answer = task.ask(request)
    took = time.perf_counter_ns() - began
    memory_mb = task.memory_mb()
    task.end()
    assert isinstance(answer, Applied), answer
    store.expect([entry])
    chunks.join(entry.digest, map(store.read, target))
    return Cost(sum(len(chunk.data) for chunk in content.chunks), took / _NS_PER_MS, memory_mb)


def _measured(pair: Pair, how: Callable[[Pair, Path], Cost]) -> Cost:
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        return how(pair, Path(folder))


def _peers(pair: Pair) -> Iterator[tuple[str, Cost | str]]:
    for name, peer in PEERS.items():
        if shutil.which(peer.program) is None:
            yield name, f"not measured: apt-get install {peer.package}"
        else:
            yield name, _measured(pair, partial(_peer, peer))


def _shown(cost: Cost | str, pair: Pair, remark: str = "") -> str:
    if isinstance(cost, str):
        return cost
    share = cost.bytes / len(pair.target)
    memory = f"{cost.memory_mb:>6.1f} MB" if cost.apply_ms >= _SEEN_MS_MIN else "        -"
    return f"{cost.bytes:>12,} bytes {share:>8.2%}  in {cost.apply_ms:>7,.0f} ms {memory}{remark}"


def _remark(cost: Cost, pair: Pair) -> str:
    return "" if patch_plan.is_worth(cost.bytes, len(pair.target)) else "  not kept"


def measure() -> Report:
    """Make and apply a patch of every pair with every tool."""
    figures: dict[str, Any] = {}
    ours: dict[str, Cost] = {}
    bsdiff: dict[str, float] = {}
    pairs = [pair for make in patch_pairs.ALL for pair in make()]
    sizes = {pair.name: len(pair.target) for pair in pairs}
    for pair in pairs:
        ours[pair.name] = _measured(pair, _ours)
        figures[f"{pair.name}: full"] = len(pair.target)
        figures[f"{pair.name}: shoal"] = _shown(
            ours[pair.name], pair, _remark(ours[pair.name], pair)
        )
        for name, cost in _peers(pair):
            figures[f"{pair.name}: {name}"] = _shown(cost, pair)
            if name == "bsdiff" and isinstance(cost, Cost):
                bsdiff[pair.name] = cost.bytes
    large = patch_pairs.largest()
    largest = _measured(large, _ours)
    figures[f"{large.name}: shoal"] = _shown(largest, large)
    idle_mb = min(cost.memory_mb for cost in ours.values())
    limits = [
        Limit(
            what=f"{name}, share of the full file",
            value=ours[name].bytes / sizes[name],
            unit="",
            limit=_HEAD_SHARE_MAX,
        )
        for name in ours
        if "new head" in name
    ]
    limits += [
        Limit(
            what=f"{name}, beside bsdiff", value=ours[name].bytes / peer_bytes, unit="x", limit=1.0
        )
        for name, peer_bytes in bsdiff.items()
        if name == "trained: fine-tuned"
    ]
    limits.append(
        Limit(
            what="a 50 MB file's memory beyond a 21 kB file's",
            value=largest.memory_mb - idle_mb,
            unit="MB",
            limit=_MEMORY_MB_MAX,
        )
    )
    return Report(limits=limits, figures=figures)


if __name__ == "__main__":
    sys.exit(benchmark.main("patches", measure))
