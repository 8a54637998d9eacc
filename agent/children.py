"""Short-lived children of the core that do its heavy work, and what is said to them.

A child gets one JSON request on standard input and writes one JSON answer; errors travel as code
and sentence. What the verbs do stands in `task`.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from firmware_bundles.errors import TaskFailed, from_code
from firmware_bundles.wire.messages import Assignment, Fault, Generations, Report

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 1024 * 1024
_COMPLAINT_CHARS_MAX: Final = 200

AnswerT = TypeVar("AnswerT")


class Admit(msgspec.Struct, frozen=True, kw_only=True, tag="admit"):
    """Verify the collected repository files, then an envelope."""

    metadata_dir: str
    root: bytes
    files: dict[str, bytes]
    envelope: bytes
    device: str
    generations: Generations
    nonce: str | None
    now: float


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to Admit: the role versions that were verified, and what may be carried out.

    The envelope's own refusal stands in `fault`: the repository was verified nevertheless.
    """

    versions: dict[str, int]
    assignment: Assignment | None = None
    fault: Fault | None = None


class SignReport(msgspec.Struct, frozen=True, kw_only=True, tag="sign_report"):
    """Sign a report with the device's key."""

    key_path: str
    report: Report


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to SignReport."""

    envelope: bytes


class PrepareState(msgspec.Struct, frozen=True, kw_only=True, tag="prepare_state"):
    """Make the tables of state.db."""

    path: str


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to PrepareState."""


Request = Admit | SignReport | PrepareState


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """How a child says no."""

    code: Annotated[str, Meta(max_length=128)]
    message: str
    hint: str = ""


class Children:
    """Starts children, one at a time: a small device has no memory for two."""

    def __init__(self, *, s_max: float, python: str = sys.executable) -> None:
        self._python = python
        self._s_max = s_max
        self._turn = asyncio.Lock()

    async def run(self, request: Request, answer: type[AnswerT]) -> AnswerT:
        """Return a child's answer.

        Raises the ShoalError that the child refused with, or TaskFailed if it did not answer in
        time, died, or said something unreadable.
        """
        async with self._turn:
            verb = request.__struct_config__.tag
            output, complaint, code = await self._talk(str(verb), msgspec.json.encode(request))
        try:
            if code == 0:
                return msgspec.json.decode(output, type=answer)
            if code > 0:
                refusal = msgspec.json.decode(output, type=Refusal)
                raise from_code(refusal.code, refusal.message, refusal.hint)
        except msgspec.DecodeError as error:
            raise TaskFailed(
                f"task {verb} ended with {code} and no readable answer: "
                f"{complaint.strip()[-_COMPLAINT_CHARS_MAX:]}"
            ) from error
        raise TaskFailed(f"task {verb} was killed by signal {-code}")

    async def _talk(self, verb: str, request: bytes) -> tuple[bytes, str, int]:
        try:
            child = await asyncio.create_subprocess_exec(
                self._python,
                "-I",
                "-m",
                "agent.task",
                verb,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise TaskFailed(f"task {verb} cannot be started: {error}") from error
        try:
            async with asyncio.timeout(self._s_max):
                output, complaint = await child.communicate(request)
        except TimeoutError as error:
            raise TaskFailed(f"task {verb} did not answer in {self._s_max:g} s") from error
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if len(output) > ANSWER_BYTES_MAX:
            raise TaskFailed(f"task {verb} answered {len(output)} bytes, too many")
        return output, complaint.decode(errors="replace"), child.returncode or 0
