"""A model that crashes, hangs, or takes what is not its own, in the self-test's child."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from agent.inference import children, selftest
from agent.inference.control import SelfTest, SelfTestAnswer
from firmware_bundles.errors import SelfTestFailed
from firmware_bundles.manifest import Needs
from support.bundles import Sample

# What the model does when it is loaded, in place of the interpreter's own code.
_CHILD: Final = """
import sys
from agent.inference import selftest, served
def load(slot):
    {deed}
served.load = load
selftest._main()
"""


class Deed(NamedTuple):
    """What a hostile model does, and what the refusal says."""

    name: str
    code: str
    said: str
    deadline_s: float = 20.0


DEEDS: Final = (
    Deed("crashes", "import ctypes; ctypes.string_at(0)", "died by SIGSEGV"),
    Deed("aborts", "import os; os.abort()", "died by SIGABRT"),
    Deed("hangs", "import time; time.sleep(600)", "did not end within 1 seconds", 1.0),
    Deed("spins", "\n    while True: pass", "(died by SIGXCPU|did not end within 1)", 1.0),
    Deed("eats memory", "found = [bytes(2**26) for _ in range(64)]", "MemoryError"),
    Deed(
        "writes files",
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL); "
        "os = __import__('os'); os.write(os.memfd_create('x'), b'x' * 10)",
        "died by SIGXFSZ",
    ),
    Deed("opens files", "found = [open('/dev/null') for _ in range(100)]", "Too many open files"),
    Deed("ends", "import os; os._exit(0)", "ended with status 0"),
    Deed("talks", "print('x' * 100_000); import os; os._exit(3)", "ended with status 3"),
)


def tried(
    state_dir: Path, monkeypatch: pytest.MonkeyPatch, code: str, deadline_s: float
) -> SelfTestAnswer:
    """Self-test a good bundle whose model does something else."""
    monkeypatch.setattr(selftest, "COMMAND", (sys.executable, "-I", "-c", _CHILD.format(deed=code)))
    request = SelfTest(family="digits", slot="A", deadline_s=deadline_s)
    return asyncio.run(selftest.run(state_dir, request))


@pytest.mark.parametrize("deed", DEEDS, ids=lambda each: each.name)
def test_a_hostile_model_is_a_clean_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: Deed
) -> None:
    """Whatever it does, the child alone suffers, and the reason is told."""
    Sample("v1").put(tmp_path, "A")
    began = time.monotonic()
    with pytest.raises(SelfTestFailed, match=deed.said):
        tried(tmp_path, monkeypatch, deed.code, deed.deadline_s)
    assert time.monotonic() - began < 60


def test_a_model_that_talks_without_end_fills_nobodys_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it prints the worker keeps no more than it reads an answer or a reason from."""
    Sample("v1").put(tmp_path, "A")
    code = "import os\n    while True: os.write(1, bytes(2**16)); os.write(2, bytes(2**16))"
    tracemalloc.start()
    try:
        with pytest.raises(SelfTestFailed, match=r"(died by SIGXCPU|did not end within 2)"):
            tried(tmp_path, monkeypatch, code, 2.0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_child_whose_pipe_is_full_can_be_ended() -> None:
    """Nobody read on, and it was killed in the middle of a line."""

    async def run() -> int | None:
        talk = "import sys\nwhile True: sys.stdout.write('x' * 2**16)"
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", talk), stdout=asyncio.subprocess.PIPE
        )
        assert child.stdout is not None
        await child.stdout.readexactly(1)
        await asyncio.sleep(0.3)  # until the pipe is full
        async with asyncio.timeout(4.0):
            await children.end(child)
        return child.returncode

    assert asyncio.run(run()) == -signal.SIGKILL


def test_a_model_gains_no_privileges_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs without new privileges; as an ordinary user it cannot even fork."""
    Sample("v1").put(tmp_path, "A")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os; status = open('/proc/self/status').read(); "
        "assert 'NoNewPrivs:\\t1' in status; "
        "os.setuid(65534) if os.geteuid() == 0 else None; "
        "os.fork()"
    )
    with pytest.raises(SelfTestFailed, match="Resource temporarily unavailable"):
        tried(tmp_path, monkeypatch, code, 20.0)


def test_a_model_within_its_limits_passes_as_an_ordinary_user(tmp_path: Path) -> None:
    """The limits are wide enough for the interpreter; what the model took is told."""
    Sample("v1").put(tmp_path, "A")
    request = SelfTest(family="digits", slot="A", deadline_s=60.0)
    answer = asyncio.run(selftest.run(tmp_path, request))
    assert answer.rows == 32
    assert 0 <= answer.memory_bytes_peak < 64 * 2**20


@pytest.mark.parametrize(
    ("needs", "said"),
    [
        (Needs(latency_ms_max=0.5), "took 2.00 ms or longer; the manifest allows 0.5 ms"),
        (Needs(memory_bytes=999), "took 1000 bytes of memory; the manifest allows 999"),
        (Needs(latency_ms_max=2.0, memory_bytes=1000), None),
        (Needs(), None),
    ],
)
def test_a_model_keeps_the_budgets_of_its_manifest(needs: Needs, said: str | None) -> None:
    """Latency of half of the vectors, and peak memory; what is not promised is not judged."""
    answer = SelfTestAnswer(
        digest="a" * 64,
        runtime="r",
        rows=1,
        difference_lsb_max=0,
        difference_absolute_max=0,
        latency_us_p50=2000.0,
        latency_us_max=9000.0,
        memory_bytes_peak=1000,
    )
    if said is None:
        selftest.check_budgets(answer, needs)
        return
    with pytest.raises(SelfTestFailed, match=said):
        selftest.check_budgets(answer, needs)
