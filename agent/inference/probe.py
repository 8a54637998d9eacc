"""Tries an accelerator on a model where it can do no harm: in a child process, with a deadline.

    python -I -m agent.inference.probe STATE_DIR FAMILY SLOT NAME

The child prints one JSON line. Foreign drivers want threads, files and address space, so it has
fewer limits than a self-test; the model that it loads has passed that one.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from agent.deployment import slots
from agent.inference import delegates
from agent.inference.control import Refusal
from agent.inference.delegates import Compiled, Delegate
from agent.inference.verdicts import Probe
from firmware_bundles.errors import (
    ConfigInvalid,
    Malformed,
    ModelUnusable,
    SelfTestFailed,
    ShoalError,
)

if TYPE_CHECKING:
    from agent.deployment.slots import Slot
    from agent.inference.backends import LiteRtBackend
    from agent.inference.compiled import CompiledBackend
    from agent.inference.cpu_backed import CpuBacked
    from agent.inference.served import Agreement, ServedModel

COMMAND: Final = (sys.executable, "-I", "-m", "agent.inference.probe")

_OUTPUT_BYTES_MAX: Final = 64 * 1024
_REASON_CHARS_MAX: Final = 200
_PASSES_MAX: Final = 3
_MEASURE_S_MAX: Final = 0.5
# What tells a process which sockets and whose heartbeat are its own: not the child's.
_NOT_INHERITED: Final = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET")


async def run(state_dir: Path, slot: Slot, delegate: Delegate) -> Probe:
    """Probe in a child and return what it measured.

    Raises ModelUnusable with the reason: a crash, a hang, a refusal, answers that disagree.
    """
    child = await asyncio.create_subprocess_exec(
        *COMMAND,
        str(state_dir),
        slot.family,
        slot.name,
        delegate.name,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # The rest is what the accelerator will serve with.
        env={name: text for name, text in os.environ.items() if name not in _NOT_INHERITED},
    )
    try:
        async with asyncio.timeout(delegate.probe_s_max):
            output, complaint = await child.communicate()
    except TimeoutError as error:
        raise ModelUnusable(
            f"the probe did not end within {delegate.probe_s_max:g} seconds"
        ) from error
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
    return _verdict(child.returncode or 0, output, complaint)


def _verdict(status: int, output: bytes, complaint: bytes) -> Probe:
    if status < 0:
        raise ModelUnusable(f"the probe died by {signal.Signals(-status).name}")
    # A driver may have printed before.
    try:
        answer = parse(output[-_OUTPUT_BYTES_MAX:].rstrip().rpartition(b"\n")[2])
    except Malformed as error:
        last = complaint.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ModelUnusable(
            f"the probe ended with status {status}: {last[-_REASON_CHARS_MAX:]}"
        ) from error
    if isinstance(answer, Refusal):
        raise ModelUnusable(answer.message)
    return answer


def parse(line: bytes) -> Probe | Refusal:
    """Read what the child said. Raises Malformed."""
    try:
        answer: Probe | Refusal = msgspec.json.decode(line, type=Probe | Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the answer cannot be read: {error}") from error
    return answer


def examine(model: ServedModel, delegate: Delegate) -> tuple[CpuBacked, Probe]:
    """Build the accelerator for a model that runs on the CPU, and hold its answers to the CPU's.

    Raises ModelUnusable, SelfTestFailed, RuntimeUnsupported.
    """
    import numpy as np

    from agent.inference.cpu_backed import CpuBacked

    built: list[LiteRtBackend | CompiledBackend] = []

    def build() -> LiteRtBackend | CompiledBackend:
        built.append(_backend(model, delegate))
        return built[0]

    guarded = CpuBacked(
        build,
        model.backend,
        build_s_max=delegate.probe_s_max,
        invoke_s_max=delegate.invoke_s_max,
    )
    began = time.monotonic()
    cpu_us, own_us = [], []
    for _ in range(_PASSES_MAX):  # in turn, so that a busy machine slows both
        reference, agreement = agree(model, guarded)
        cpu_us.append(reference.latency_us)
        own_us.append(agreement.latency_us)
        if time.monotonic() - began > _MEASURE_S_MAX:
            break
    found = built.pop().coverage()
    return guarded, Probe(
        nodes=found.nodes,
        taken=found.taken,
        operations=found.operations,
        difference_lsb_max=agreement.difference_lsb_max,
        difference_absolute_max=agreement.difference_absolute_max,
        latency_us=float(np.median(np.concatenate(own_us))),
        cpu_latency_us=float(np.median(np.concatenate(cpu_us))),
    )


def agree(model: ServedModel, guarded: CpuBacked) -> tuple[Agreement, Agreement]:
    """Run the golden vectors on the CPU, then on the accelerator, and return both, if they agree.

    Raises SelfTestFailed when they do not, ModelUnusable when the accelerator was lost.
    """
    from agent.inference.served import ServedModel

    reference = ServedModel(model.bundle, guarded.cpu).prove()
    agreement = ServedModel(model.bundle, guarded).prove(reference)
    if guarded.lost:
        raise ModelUnusable(guarded.lost)
    return reference, agreement


def _backend(model: ServedModel, delegate: Delegate) -> LiteRtBackend | CompiledBackend:
    manifest = model.manifest
    path = model.bundle.slot.directory / manifest.model
    if isinstance(delegate, Compiled):
        from agent.inference.compiled import CompiledBackend

        return CompiledBackend(path, manifest, delegate)
    from agent.inference.backends import LiteRtBackend

    return LiteRtBackend(path, manifest, delegate=delegate)


def _measure(state_dir: Path, family: str, name: str, chosen: str) -> Probe:
    from agent.inference import served

    found = {each.name: each for each in delegates.load(state_dir)}
    if chosen not in found:
        raise ConfigInvalid(f"{delegates.FILE_NAME} names no delegate {chosen!r}")
    signal.alarm(int(found[chosen].probe_s_max) + 2)  # a hang ends though the parent may be gone
    model = served.load(slots.slot(state_dir / "slots", family, name))
    return examine(model, found[chosen])[1]


def _main() -> None:
    state_dir, family, name, chosen = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line: Probe | Refusal
    try:
        line = _measure(Path(state_dir), family, name, chosen)
    except ShoalError as error:
        line = Refusal(code=error.code, message=error.message, hint=error.hint)
    except (MemoryError, ValueError) as error:
        line = Refusal(code=SelfTestFailed.code, message=f"the probe failed: {error!r:.200}")
    sys.stdout.buffer.write(b"\n" + msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    os._exit(0)  # a driver that hangs, or fails while it is freed, changes nothing any more


if __name__ == "__main__":
    _main()
