"""What the core asks of the worker, one JSON line each way, and the asking side.

Light: the core imports this. The answering side is `control_server`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from firmware_bundles.errors import Malformed, WorkerUnavailable, from_code
from firmware_bundles.identifiers import Digest, Family, Incarnation, ModelVersion
from firmware_bundles.wire.messages import BufferFacts, Count

LINE_BYTES_MAX: Final = 64 * 1024


class Status(msgspec.Struct, frozen=True, tag="status"):
    """Tell what serves, and how full the buffer is."""


class SelfTest(msgspec.Struct, frozen=True, tag="self_test"):
    """Try the model of a slot in a child process; `deadline_s` ends a hang."""

    family: Family
    slot: Literal["A", "B"]
    deadline_s: float = 30.0


class Swap(msgspec.Struct, frozen=True, tag="swap"):
    """Serve the slot that the family's pointer names now; `deadline_s` ends a hang."""

    family: Family
    deadline_s: float = 30.0


class Recapture(msgspec.Struct, frozen=True, tag="recapture"):
    """Read anew what is to be captured of the model that serves this family."""

    family: Family


class Unload(msgspec.Struct, frozen=True, tag="unload"):
    """Serve no model of this family."""

    family: Family


class Shadow(msgspec.Struct, frozen=True, tag="shadow"):
    """Mirror a share of this family's inputs to the model of a slot; 0 ends that."""

    family: Family
    slot: Literal["A", "B"]
    share: Annotated[float, Meta(ge=0, le=1)]


class Erase(msgspec.Struct, frozen=True, tag="erase"):
    """Serve nothing, end, and erase all that was recorded: this device is retired."""


Request = Status | SelfTest | Swap | Recapture | Unload | Shadow | Erase


class ShadowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the shadow of a family answered: `rows` compared, `dropped` for lack of room.

    `score_difference_sum` adds up the largest difference of a score in each row, `latency_us_sum`
    is processor time. `reason` says why it is over.
    """

    digest: Digest
    rows: Count = 0
    dropped: Count = 0
    errors: Count = 0
    agreed: Count = 0
    score_difference_sum: float = 0.0
    latency_us_sum: Count = 0
    reason: str = ""


class FamilyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The model that answers for a family. `since` is Unix seconds; `reason` says why not ready.

    `latency_us_sum` is of all that was answered; `delegate_reason` says what the accelerator took,
    or why the CPU serves though one is configured. `refusals` counts requests whose input had
    killed the worker twice, `killers` the different inputs at which this model died within the
    hour, the latest by `signal`; `repeated_deaths` were at an input that had killed before.
    """

    digest: Digest | None = None
    version: ModelVersion | None = None
    runtime: str = ""
    delegate: str = ""
    delegate_reason: str = ""
    since: float = 0.0
    answered: Count = 0
    errors: Count = 0
    refusals: Count = 0
    killers: Count = 0
    repeated_deaths: Count = 0
    signal: str = ""
    latency_us_sum: Count = 0
    ready: bool = False
    reason: str = ""
    shadow: ShadowStatus | None = None


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="status"):
    """The worker at this moment; `memory_bytes` is its resident set."""

    incarnation: Incarnation
    families: dict[Family, FamilyStatus]
    buffer: BufferFacts = BufferFacts()
    memory_bytes: Count = 0


class SelfTestAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="self_test"):
    """The self-test passed: largest difference from the golden vectors, and the model's pace."""

    digest: Digest
    runtime: str
    rows: int
    difference_lsb_max: float
    difference_absolute_max: float
    latency_us_p50: float
    latency_us_max: float
    memory_bytes_peak: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """What was asked for took place; `family` is what serves now."""

    family: FamilyStatus


class Erasing(msgspec.Struct, frozen=True, kw_only=True, tag="erasing"):
    """It is noted on disk: the next incarnation has erased what this one and others recorded.

    `segments` counts what will not be delivered, with one for the rows not sealed yet.
    """

    incarnation: Incarnation
    segments: Count


class ShadowReady(msgspec.Struct, frozen=True, kw_only=True, tag="shadow_ready"):
    """A shadow has proved its model, and follows."""

    digest: Digest


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """The error of the worker, by its code."""

    code: str
    message: str
    hint: str = ""


Response = StatusAnswer | SelfTestAnswer | Done | Erasing
Line = StatusAnswer | SelfTestAnswer | Done | Erasing | ShadowReady | Refusal


async def call(path: Path, request: Request, timeout_s: float = 10.0) -> Response:
    """Ask the worker behind the socket at `path` and return its answer.

    Raises WorkerUnavailable when it does not answer in time, and the worker's own refusal by its
    code: SelfTestFailed, SlotBroken, ...
    """
    import asyncio  # here, because a self-test's child wants only what is said

    try:
        async with asyncio.timeout(timeout_s):
            line = await _exchange(path, msgspec.json.encode(request) + b"\n")
        answer = parse_line(line)
    except (OSError, TimeoutError, ValueError, Malformed) as error:
        what = type(request).__name__
        raise WorkerUnavailable(
            f"the inference worker did not answer {what}: {str(error) or type(error).__name__}"
        ) from error
    if isinstance(answer, Refusal):
        raise from_code(answer.code, answer.message, answer.hint)
    if isinstance(answer, ShadowReady):
        raise WorkerUnavailable("the inference worker answered as its shadow does")
    return answer


def parse_line(line: bytes) -> Line:
    """Read what a worker, or a self-test's child, answered. Raises Malformed."""
    try:
        answer: Line = msgspec.json.decode(line, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the answer cannot be read: {error}") from error
    return answer


async def status(path: Path, timeout_s: float = 10.0) -> StatusAnswer:
    """Return the worker's status. Raises as `call`."""
    answer = await call(path, Status(), timeout_s)
    if not isinstance(answer, StatusAnswer):
        raise WorkerUnavailable(f"the inference worker answered {type(answer).__name__} to Status")
    return answer


async def _exchange(path: Path, line: bytes) -> bytes:
    import asyncio

    reader, writer = await asyncio.open_unix_connection(path, limit=LINE_BYTES_MAX)
    try:
        writer.write(line)
        await writer.drain()
        answer = await reader.readline()
    finally:
        writer.close()
    if not answer.endswith(b"\n"):
        raise ConnectionResetError("it closed the connection")
    return answer
