"""The shadow: a model that sees mirrored inputs in a process of its own, and answers nobody.

    python -I -m agent.inference.shadow STATE_DIR FAMILY SLOT DESCRIPTOR SHAPE...

It gets what processor time is left over, and of that a share; it looks rarely, and answers all
that it finds then: who wakes often is in the way of more requests. It ends with its parent, or
when that asks for its last answers (SIGTERM). What is mirrored, and what becomes of the answers,
is `mirror`'s affair.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from agent.deployment import slots
from agent.inference import answers, children, served
from agent.inference.control import Line, ShadowReady
from agent.inference.quantization import DTYPES, REAL, Stored
from agent.inference.ring import Ring, Shape
from agent.inference.selftest import MEMORY_BYTES_MAX
from agent.inference.served import ServedModel
from firmware_bundles.errors import ModelUnusable, ShoalError

COMMAND: Final = children.command("shadow")
FAILED: Final = -2  # in place of a class: the model could not answer
CPU_SHARE_MAX: Final = 0.25  # of one core

_ENDING: Final = {signal.SIGTERM}
_LATENCY_US_MAX: Final = 2**32 - 1
_NICEST: Final = 19
_FILES_MAX: Final = 64


def follow(ring: Ring, model: ServedModel, parent: int) -> None:
    """Answer what is put into the ring for as long as the parent lives and has not signalled."""
    row = 0
    pause_s = ring.pause_s
    is_ending = False
    while not is_ending and os.getppid() == parent:
        put = ring.put
        is_ending = signal.sigtimedwait(_ENDING, pause_s) is not None
        if is_ending:
            put = ring.put  # the signal came after all rows
        began = time.thread_time()
        for each in range(row, put):
            _answer(ring, each % ring.places, model)
        row = ring.answered = put
        # Of the time that it took, it may have had a share.
        spent_s = time.thread_time() - began
        pause_s = max(ring.pause_s, spent_s * (1 / CPU_SHARE_MAX - 1))


def _inputs(ring: Ring, place: int, model: ServedModel) -> list[Stored]:
    ports = model.inputs
    if ring.is_stored:
        found = ring.read(place, [(port.dtype, port.size) for port in ports])
        return [each.reshape(port.shape) for each, port in zip(found, ports, strict=True)]
    real = ring.read(place, [(DTYPES[REAL], port.size) for port in ports])
    return [port.store(each) for each, port in zip(real, ports, strict=True)]


def _answer(ring: Ring, place: int, model: ServedModel) -> None:
    stored = _inputs(ring, place, model)
    began = time.thread_time_ns()
    try:
        outputs = model.run(stored)
    except ModelUnusable:
        ring.predicted[place] = FAILED
        return
    ring.latency_us[place] = min((time.thread_time_ns() - began) // 1000, _LATENCY_US_MAX)
    answer = answers.interpret(model, outputs)
    ring.scores[place] = answer.scores
    ring.predicted[place] = answer.predicted


def _confine(memory_bytes: int) -> None:
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX + memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _FILES_MAX),
    ):
        resource.setrlimit(kind, (most, most))
    os.setpriority(os.PRIO_PROCESS, 0, _NICEST)


def _main() -> None:
    state_dir, family, name, *numbers = sys.argv[1:]
    descriptor, input_bytes, scores, is_stored = (int(each) for each in numbers)
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # `follow` waits for it
    line: Line
    try:
        slot = slots.slot(Path(state_dir) / "slots", family, name)
        ring = Ring(descriptor, Shape(input_bytes, scores, bool(is_stored)))
        _confine(slots.read(slot).needs.memory_bytes)
        model = served.load(slot)
        line = ShadowReady(digest=model.bundle.digest)
    except (ShoalError, MemoryError, ValueError) as error:
        line = children.refusal(error, "the shadow")
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    # Nobody reads on: a runtime that prints would stand still once the pipe is full.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(line, ShadowReady):
        # Not sooner: beside a busy worker the start would take minutes.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        follow(ring, model, parent)


if __name__ == "__main__":
    _main()
