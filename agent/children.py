"""Short-lived children of the core that do its heavy work.

A child lives while there is work and some seconds longer, because most of a request's cost is its
start; after a number of requests, and after anything unexpected, it is thrown away. What is said
stands in `task_messages`, what the verbs do in `task`.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Final, TypeVar

import msgspec

from agent.task_messages import (
    ANSWER_BYTES_MAX,
    LENGTH_BYTES,
    Answer,
    Refusal,
    Request,
    frame,
    parse_answer,
)
from firmware_bundles.errors import Malformed, TaskFailed, from_code

IDLE_S_DEFAULT: Final = 5.0
_REQUESTS_MAX: Final = 16
_DYING_S_MAX: Final = 2.0

AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


class Children:
    """Starts children, one at a time: a small device has no memory for two."""

    def __init__(
        self, *, s_max: float, idle_s: float = IDLE_S_DEFAULT, python: str = sys.executable
    ) -> None:
        self._python = python
        self._s_max = s_max
        self._idle_s = idle_s
        self._turn = asyncio.Lock()
        self._child: Process | None = None
        self._requests = 0
        self._farewell: asyncio.TimerHandle | None = None
        self._leaving: asyncio.Task[int] | None = None

    async def run(self, request: Request, answer: type[AnswerT]) -> AnswerT:
        """Return a child's answer.

        Raises the ShoalError that the child refused with, or TaskFailed if it did not answer in
        time, died, or said something unreadable.
        """
        verb = str(request.__struct_config__.tag)
        async with self._turn:
            said = await self._ask(verb, request)
        if isinstance(said, Refusal):
            raise from_code(said.code, said.message, said.hint)
        if not isinstance(said, answer):
            raise TaskFailed(f"task {verb} answered with a {type(said).__name__}")
        return said

    async def stop(self) -> None:
        """End the child that may still be there."""
        async with self._turn:
            await self._dismiss()

    async def _ask(self, verb: str, request: Request) -> Answer:
        self._stay()
        is_fine = False
        try:
            async with asyncio.timeout(self._s_max):
                child = self._child or await self._start()
                said = await self._converse(child, request)
            is_fine = True
        except TimeoutError as error:
            raise TaskFailed(f"task {verb} did not answer in {self._s_max:g} s") from error
        except (OSError, EOFError) as error:
            ended = await self._how_it_ended()
            raise TaskFailed(f"task {verb} gave no readable answer: {ended}") from error
        except Malformed as error:
            raise TaskFailed(f"task {verb} gave no readable answer: {error}") from error
        finally:
            self._requests += 1
            if not is_fine or self._requests >= _REQUESTS_MAX:
                await self._dismiss()
        self._leave_later()
        return said

    async def _start(self) -> Process:
        self._requests = 0
        self._child = await asyncio.create_subprocess_exec(
            self._python,
            "-I",
            "-m",
            "agent.task",
            stdin=PIPE,
            stdout=PIPE,
            limit=ANSWER_BYTES_MAX,
            process_group=0,  # Ctrl-C at a terminal is the core's to hear
        )
        return self._child

    @staticmethod
    async def _converse(child: Process, request: Request) -> Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(frame(request))
        await child.stdin.drain()
        length = int.from_bytes(await child.stdout.readexactly(LENGTH_BYTES), "big")
        if length > ANSWER_BYTES_MAX:
            raise Malformed(f"{length} bytes are too many")
        return parse_answer(await child.stdout.readexactly(length))

    async def _how_it_ended(self) -> str:
        if self._child is None:
            return "it cannot be started"
        status: int | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(_DYING_S_MAX):
                status = await self._child.wait()
        if status is None:
            return "it closed its output"
        return f"it was killed by signal {-status}" if status < 0 else f"it ended with {status}"

    def _stay(self) -> None:
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None

    def _leave_later(self) -> None:
        if self._child is not None:
            loop = asyncio.get_running_loop()
            self._farewell = loop.call_later(self._idle_s, self._say_goodbye)

    def _say_goodbye(self) -> None:
        """Close the child's input, which ends it; the loop reaps it."""
        if not self._turn.locked() and self._child is not None:
            child, self._child = self._child, None
            if child.stdin is not None:
                child.stdin.close()
            self._leaving = asyncio.create_task(child.wait())

    async def _dismiss(self) -> None:
        self._stay()
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()
