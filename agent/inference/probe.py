"""Tries an accelerator on a model where it can do no harm, and serves with what passed.

    python -I -m agent.inference.probe STATE_DIR FAMILY SLOT NAME SOCKET MEMORY

The child says one message on the socket, a Probe or a Refusal as JSON. Then, for each RUN, it
answers the input that lies in the memory (`exchange`): DONE, or the reason why not. Foreign drivers
want threads, files and address space, so it has fewer limits than a self-test; the model that it
loads has passed that one. It ends with its parent. The parent's side is `hosted`.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from agent.deployment import slots
from agent.inference import children, delegates
from agent.inference.control import Refusal
from agent.inference.delegates import Compiled, Delegate
from agent.inference.verdicts import Probe
from firmware_bundles.errors import (
    ConfigInvalid,
    Malformed,
    ModelUnusable,
    ShoalError,
)

if TYPE_CHECKING:
    from agent.inference.backends import LiteRtBackend
    from agent.inference.compiled import CompiledBackend
    from agent.inference.cpu_backed import CpuBacked
    from agent.inference.exchange import Exchange
    from agent.inference.served import Agreement, ServedModel
    from agent.inference.threaded import Threaded

COMMAND: Final = children.command("probe")
RUN: Final = b"run"
DONE: Final = b"done"

_PASSES_MAX: Final = 3
_MEASURE_S_MAX: Final = 0.5
_GRACE_S: Final = 2
_WORD_BYTES_MAX: Final = 64
_REASON_BYTES_MAX: Final = 4096


class Examined(NamedTuple):
    """An accelerator that agrees with the CPU, and what was measured of it."""

    accelerator: Threaded
    guarded: CpuBacked
    probe: Probe


def parse(line: bytes) -> Probe | Refusal:
    """Read what the child said. Raises Malformed."""
    try:
        answer: Probe | Refusal = msgspec.json.decode(line, type=Probe | Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the answer cannot be read: {error}") from error
    return answer


def examine(model: ServedModel, delegate: Delegate) -> Examined:
    """Build the accelerator for a model that runs on the CPU, and hold its answers to the CPU's.

    Raises ModelUnusable, SelfTestFailed, RuntimeUnsupported.
    """
    import numpy as np

    from agent.inference.cpu_backed import CpuBacked
    from agent.inference.threaded import Threaded

    built: list[LiteRtBackend | CompiledBackend] = []

    def build() -> LiteRtBackend | CompiledBackend:
        built.append(_backend(model, delegate))
        return built[0]

    accelerator = Threaded(
        build, build_s_max=delegate.probe_s_max, invoke_s_max=delegate.invoke_s_max
    )
    guarded = CpuBacked(accelerator, model.backend)
    began = time.monotonic()
    cpu_us, own_us = [], []
    for _ in range(_PASSES_MAX):  # in turn, so that a busy machine slows both
        reference, agreement = agree(model, guarded)
        cpu_us.append(reference.latency_us)
        own_us.append(agreement.latency_us)
        if time.monotonic() - began > _MEASURE_S_MAX:
            break
    found = built.pop().coverage()
    measured = Probe(
        nodes=found.nodes,
        taken=found.taken,
        operations=found.operations,
        difference_lsb_max=agreement.difference_lsb_max,
        difference_absolute_max=agreement.difference_absolute_max,
        latency_us=float(np.median(np.concatenate(own_us))),
        cpu_latency_us=float(np.median(np.concatenate(cpu_us))),
    )
    return Examined(accelerator, guarded, measured)


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


class _Probed(NamedTuple):
    """What the child serves with; the CPU's interpreter has done its work, and is not kept."""

    accelerator: Threaded
    exchange: Exchange
    invoke_s_max: float


def _measure(
    state_dir: Path, family: str, name: str, chosen: str, memory: int
) -> tuple[Probe, _Probed]:
    from agent.inference import served
    from agent.inference.exchange import Exchange

    found = {each.name: each for each in delegates.load(state_dir)}
    if chosen not in found:
        raise ConfigInvalid(f"{delegates.FILE_NAME} names no delegate {chosen!r}")
    delegate = found[chosen]
    _end_in(delegate.probe_s_max)
    model = served.load(slots.slot(state_dir / "slots", family, name))
    exchange = Exchange(memory, model.inputs, model.outputs)
    examined = examine(model, delegate)
    signal.alarm(0)
    return examined.probe, _Probed(examined.accelerator, exchange, delegate.invoke_s_max)


def _follow(line: socket.socket, probed: _Probed) -> None:
    """Answer until the parent is gone, or something goes wrong."""
    while line.recv(_WORD_BYTES_MAX) == RUN:
        _end_in(probed.invoke_s_max)
        try:
            probed.exchange.answer(probed.accelerator.run(probed.exchange.given()))
        except ModelUnusable as error:
            line.send(error.message.encode()[:_REASON_BYTES_MAX])
            return
        signal.alarm(0)
        line.send(DONE)


def _end_in(seconds: float) -> None:
    """Let a hang end this process though the parent may be gone."""
    signal.alarm(int(seconds) + _GRACE_S)


def _main() -> None:
    state_dir, family, name, chosen, *descriptors = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    line, memory = socket.socket(fileno=int(descriptors[0])), int(descriptors[1])
    said: Probe | Refusal
    probed = None
    try:
        said, probed = _measure(Path(state_dir), family, name, chosen, memory)
    except (ShoalError, MemoryError, ValueError) as error:
        said = children.refusal(error, "the probe")
    with suppress(OSError):  # the parent has gone
        line.send(msgspec.json.encode(said))
        if probed is not None:
            _follow(line, probed)
    os._exit(0)  # a driver that hangs, or fails while it is freed, changes nothing any more


if __name__ == "__main__":
    _main()
