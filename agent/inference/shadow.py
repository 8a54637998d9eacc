"""The shadow: a model that sees mirrored inputs in a process of its own, and answers nobody.

    python -I -m agent.inference.shadow STATE_DIR FAMILY SLOT DESCRIPTOR FEATURES SCORES

It gets what processor time is left over, and of that a share. It ends with its parent. What is
mirrored, and what becomes of the answers, is `mirror`'s affair.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from agent.deployment import slots
from agent.inference import answers, children, served
from agent.inference.control import Line, ShadowReady
from agent.inference.ring import Ring, Shape
from agent.inference.selftest import MEMORY_BYTES_MAX
from agent.inference.served import ServedModel
from firmware_bundles.errors import ModelUnusable, ShoalError

COMMAND: Final = children.command("shadow")
FAILED: Final = -2  # in place of a class: the model could not answer
CPU_SHARE_MAX: Final = 0.25  # of one core

_POLL_S: Final = 0.02
_LATENCY_US_MAX: Final = 2**32 - 1
_NICEST: Final = 19
_FILES_MAX: Final = 64


def follow(ring: Ring, model: ServedModel, parent: int) -> None:
    """Answer what is put into the ring for as long as the parent lives."""
    sizes = np.cumsum([port.size for port in model.inputs])[:-1]
    row = 0
    while os.getppid() == parent:
        put = ring.put
        time.sleep(_POLL_S)
        began = time.thread_time()
        for each in range(row, put):
            _answer(ring, each % ring.places, model, sizes.tolist())
        row = ring.answered = put
        # Of the time that it took, it may have had a share.
        time.sleep((time.thread_time() - began) * (1 / CPU_SHARE_MAX - 1))


def _answer(ring: Ring, place: int, model: ServedModel, cuts: list[int]) -> None:
    real = np.split(ring.features[place], cuts)
    stored = [port.store(each) for each, port in zip(real, model.inputs, strict=True)]
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
    os.nice(_NICEST)


def _main() -> None:
    state_dir, family, name, *numbers = sys.argv[1:]
    descriptor, features, scores = (int(each) for each in numbers)
    parent = os.getppid()
    line: Line
    try:
        slot = slots.slot(Path(state_dir) / "slots", family, name)
        ring = Ring(descriptor, Shape(features, scores))
        _confine(slots.read(slot).needs.memory_bytes)
        model = served.load(slot)
        line = ShadowReady(digest=model.bundle.digest)
    except (ShoalError, MemoryError, ValueError) as error:
        line = children.refusal(error, "the shadow")
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.flush()
    if isinstance(line, ShadowReady):
        # Not sooner: beside a busy worker the start would take minutes.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        follow(ring, model, parent)


if __name__ == "__main__":
    _main()
