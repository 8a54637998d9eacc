"""An accelerator in a thread of its own, in this process: what it does wrong in time is an error.

A crash takes the process along: `hosted` has a process for it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from agent.inference.backends import Backend
from agent.inference.quantization import Stored
from firmware_bundles.errors import ModelUnusable

_AnswerT = TypeVar("_AnswerT")


class _Job(NamedTuple):
    """One input on its way to the accelerator's thread, and where the answer is awaited."""

    inputs: Sequence[Stored]
    answer: SimpleQueue[list[Stored] | Exception]


class Threaded:
    """Runs `build()`'s backend, for one caller at a time.

    It is built in its thread, too, as some demand. A thread that is stuck can be given up; it keeps
    what it holds.
    """

    def __init__(
        self, build: Callable[[], Backend], *, build_s_max: float, invoke_s_max: float
    ) -> None:
        """Build it. Raises ModelUnusable when that fails or takes too long."""
        self._invoke_s_max = invoke_s_max
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        built: SimpleQueue[str | Exception] = SimpleQueue()
        arguments = (build, built, self._jobs)
        threading.Thread(target=_serve, args=arguments, name="delegate", daemon=True).start()
        weakref.finalize(self, self._jobs.put, None)
        self.delegate = _await(built, build_s_max, "it was not ready")

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the accelerator's outputs. Raises ModelUnusable."""
        job = _Job(inputs, SimpleQueue())
        self._jobs.put(job)
        return _await(job.answer, self._invoke_s_max, "it did not answer")

    def close(self) -> None:
        """Let the thread end when it can."""
        self._jobs.put(None)


def _serve(
    build: Callable[[], Backend],
    built: SimpleQueue[str | Exception],
    jobs: SimpleQueue[_Job | None],
) -> None:
    try:
        backend = build()
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises, it was not built
        built.put(error)
        return
    built.put(backend.delegate)
    while (job := jobs.get()) is not None:
        try:
            job.answer.put(backend.run(job.inputs))
        except Exception as error:  # noqa: BLE001 - as above
            job.answer.put(error)


def _await(answers: SimpleQueue[_AnswerT | Exception], seconds: float, what: str) -> _AnswerT:
    try:
        answer = answers.get(timeout=seconds)
    except Empty:
        raise ModelUnusable(f"{what} within {seconds:g} seconds") from None
    if isinstance(answer, ModelUnusable):
        raise answer
    if isinstance(answer, Exception):
        raise ModelUnusable(f"{str(answer) or type(answer).__name__:.400}") from answer
    return answer
