"""Tries a model where it can do no harm: in a child process with limits, thrown away afterwards.

    python -I -m agent.inference.selftest STATE_DIR FAMILY SLOT DEADLINE_S

The child prints one JSON line. A crash or a hang of it is a clean refusal of the parent.
"""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.deployment import slots
from agent.inference import children
from agent.inference.control import Line, Refusal, SelfTest, SelfTestAnswer, parse_line
from firmware_bundles.errors import Malformed, SelfTestFailed, ShoalError, from_code
from firmware_bundles.manifest import Needs

if TYPE_CHECKING:
    from asyncio import StreamReader

COMMAND: Final = children.command("selftest")
# Address space, beside what the manifest says that the model needs (reference: a half-truncated
# file took 22.6 GB without a limit).
MEMORY_BYTES_MAX: Final = 1024**3

_PR_SET_NO_NEW_PRIVS: Final = 38  # prctl(2)
_OUTPUT_BYTES_MAX: Final = 64 * 1024
_REASON_CHARS_MAX: Final = 200
_FILES_MAX: Final = 64


async def run(state_dir: Path, request: SelfTest) -> SelfTestAnswer:
    """Test a slot in a child and return what it measured.

    Raises SelfTestFailed for a crash, a hang or a wrong answer, SlotBroken for a damaged slot,
    ModelUnusable for a file that the interpreter refuses.
    """
    import asyncio  # the parent's: the child does without, and is ready sooner

    child = await asyncio.create_subprocess_exec(
        *COMMAND,
        str(state_dir),
        request.family,
        request.slot,
        str(request.deadline_s),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=children.BARE_ENVIRONMENT,
    )
    try:
        async with asyncio.timeout(request.deadline_s):
            output, complaint = await asyncio.gather(_first(child.stdout), _last(child.stderr))
            await child.wait()
    except TimeoutError as error:
        raise SelfTestFailed(
            f"the self-test did not end within {request.deadline_s:g} seconds"
        ) from error
    finally:
        await children.end(child)
    return _verdict(child.returncode or 0, output, complaint)


async def _first(stream: StreamReader | None) -> bytes:
    """Read to the end, and keep the beginning: a model may talk as long as it runs."""
    kept = b""
    while stream is not None and (piece := await stream.read(_OUTPUT_BYTES_MAX)):
        kept += piece[: _OUTPUT_BYTES_MAX - len(kept)]
    return kept


async def _last(stream: StreamReader | None) -> bytes:
    kept = b""
    while stream is not None and (piece := await stream.read(_OUTPUT_BYTES_MAX)):
        kept = (kept + piece)[-_OUTPUT_BYTES_MAX:]
    return kept


def _verdict(status: int, output: bytes, complaint: bytes) -> SelfTestAnswer:
    if status < 0:
        raise SelfTestFailed(f"the self-test died by {signal.Signals(-status).name}")
    try:
        answer = parse_line(output)
    except Malformed as error:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SelfTestFailed(
            f"the self-test ended with status {status}: {last[-_REASON_CHARS_MAX:]}"
        ) from error
    if isinstance(answer, Refusal):
        raise from_code(answer.code, answer.message, answer.hint)
    if not isinstance(answer, SelfTestAnswer):
        raise SelfTestFailed("the self-test gave another answer than asked for")
    return answer


def measure(state_dir: Path, family: str, name: str) -> SelfTestAnswer:
    """Load and prove the model of a slot in this process, and hold it against its own budgets.

    Raises as `served.load`.
    """
    import numpy as np

    from agent.inference import backends, served

    slot = slots.slot(state_dir / "slots", family, name)
    backends.load_runtime()  # what the interpreter itself weighs is not the model's
    before = memory_bytes_peak()
    model = served.load(slot)
    agreement = model.prove()
    answer = SelfTestAnswer(
        digest=model.bundle.digest,
        runtime=model.backend.runtime,
        rows=agreement.rows,
        difference_lsb_max=agreement.difference_lsb_max,
        difference_absolute_max=agreement.difference_absolute_max,
        latency_us_p50=float(np.median(agreement.latency_us)),
        latency_us_max=float(agreement.latency_us.max()),
        memory_bytes_peak=max(0, memory_bytes_peak() - before),
    )
    check_budgets(answer, model.manifest.needs)
    return answer


def check_budgets(answer: SelfTestAnswer, needs: Needs) -> None:
    """Hold what was measured against what the manifest promises; 0 promises nothing.

    Raises SelfTestFailed.
    """
    latency_ms = answer.latency_us_p50 / 1000
    if 0 < needs.latency_ms_max < latency_ms:
        raise SelfTestFailed(
            f"half of the golden vectors took {latency_ms:.2f} ms or longer; "
            f"the manifest allows {needs.latency_ms_max:g} ms"
        )
    if 0 < needs.memory_bytes < answer.memory_bytes_peak:
        raise SelfTestFailed(
            f"the model took {answer.memory_bytes_peak} bytes of memory; "
            f"the manifest allows {needs.memory_bytes}"
        )


def memory_bytes_peak() -> int:
    """Return the most that this process ever held (proc(5), VmHWM).

    Not getrusage(2): its figure begins with what the parent held.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


def limit(deadline_s: float, memory_bytes: int) -> None:
    """Bound what this process may take from now on, for good: time, memory, files, children."""
    import ctypes

    processor_s = int(deadline_s) + 1
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX + memory_bytes),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES_MAX),
        (resource.RLIMIT_NPROC, 0),  # no child, no further thread (where it is not root's)
    ):
        resource.setrlimit(kind, (most, most))
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    signal.alarm(processor_s + 1)  # a hang ends though the parent may be gone


def _main() -> None:
    state_dir, family, name, deadline_s = sys.argv[1:]
    line: Line
    try:
        needs = slots.read(slots.slot(Path(state_dir) / "slots", family, name)).needs
        limit(float(deadline_s), needs.memory_bytes)
        line = measure(Path(state_dir), family, name)
    except (ShoalError, MemoryError, ValueError) as error:
        line = children.refusal(error, "the self-test")
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")


if __name__ == "__main__":
    _main()
