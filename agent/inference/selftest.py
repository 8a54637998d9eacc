"""Tries a model where it can do no harm: in a child process with limits, thrown away afterwards.

    python -I -m agent.inference.selftest STATE_DIR FAMILY SLOT DEADLINE_S

The child prints one JSON line. A crash or a hang of it is a clean refusal of the parent.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.deployment import slots
from agent.inference.control import Line, Refusal, SelfTest, SelfTestAnswer, parse_line
from firmware_bundles.errors import Malformed, SelfTestFailed, ShoalError, from_code

MEMORY_BYTES_MAX: Final = 2 * 1024**3

_OUTPUT_BYTES_MAX: Final = 64 * 1024
_REASON_CHARS_MAX: Final = 200
_FILES_MAX: Final = 64


async def run(state_dir: Path, request: SelfTest) -> SelfTestAnswer:
    """Test a slot in a child and return what it measured.

    Raises SelfTestFailed for a crash, a hang or a wrong answer, SlotBroken for a damaged slot,
    ModelUnusable for a file that the interpreter refuses.
    """
    import asyncio  # the parent's: the child does without, and is ready sooner

    arguments = ["-I", "-m", __name__, str(state_dir), request.family, request.slot]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        str(request.deadline_s),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        async with asyncio.timeout(request.deadline_s):
            output, complaint = await child.communicate()
    except TimeoutError as error:
        raise SelfTestFailed(
            f"the self-test did not end within {request.deadline_s:g} seconds"
        ) from error
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    return _verdict(child.returncode or 0, output, complaint)


def _verdict(status: int, output: bytes, complaint: bytes) -> SelfTestAnswer:
    if status < 0:
        raise SelfTestFailed(f"the self-test died by {signal.Signals(-status).name}")
    try:
        answer = parse_line(output[:_OUTPUT_BYTES_MAX])
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
    """Load and prove the model of a slot in this process. Raises as `served.load`."""
    import numpy as np

    from agent.inference import served

    slot = slots.slot(state_dir / "slots", family, name)
    model = served.load(slot)
    agreement = model.prove()
    return SelfTestAnswer(
        digest=model.bundle.digest,
        runtime=model.backend.runtime,
        rows=agreement.rows,
        difference_lsb_max=agreement.difference_lsb_max,
        difference_absolute_max=agreement.difference_absolute_max,
        latency_us_p50=float(np.median(agreement.latency_us)),
        latency_us_max=float(agreement.latency_us.max()),
        memory_bytes_peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _limit(deadline_s: float) -> None:
    processor_s = int(deadline_s) + 1
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _FILES_MAX),
    ):
        resource.setrlimit(kind, (most, most))
    signal.alarm(processor_s + 1)  # a hang ends though the parent may be gone


def _main() -> None:
    state_dir, family, name, deadline_s = sys.argv[1:]
    _limit(float(deadline_s))
    line: Line
    try:
        line = measure(Path(state_dir), family, name)
    except ShoalError as error:
        line = Refusal(code=error.code, message=error.message, hint=error.hint)
    except (MemoryError, ValueError) as error:
        line = Refusal(code=SelfTestFailed.code, message=f"the self-test failed: {error!r:.200}")
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")


if __name__ == "__main__":
    _main()
