"""What the core says to a task and what it answers, and how both are framed on a pipe.

A frame is four bytes of length, most significant first, and that many bytes of JSON. Who starts
tasks stands in `children`, what the verbs do in `task`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from firmware_bundles.errors import Malformed
from firmware_bundles.identifiers import Digest, Family
from firmware_bundles.manifest import FileEntry
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire.messages import (
    Assignment,
    Fault,
    Generations,
    ModelReference,
    Report,
)

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 1024 * 1024
LENGTH_BYTES: Final = 4
# In base64, with their names, they fit an answer.
CHUNKS_PER_FETCH_MAX: Final = 8


def frame(message: msgspec.Struct) -> bytes:
    """Return the bytes that carry a message."""
    body = msgspec.json.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Admit(msgspec.Struct, frozen=True, kw_only=True, tag="admit"):
    """Verify the collected repository files, then an envelope.

    `floors` are the role versions that may not go back; `now` is the clock's time, `time_floor`
    what is certainly past. `may_use_cache` allows to verify what was verified before once more,
    when the files cannot be had.
    """

    metadata_dir: str
    root: bytes
    files: dict[str, bytes]
    envelope: bytes
    device: str
    generations: Generations
    nonce: str | None
    now: float
    time_floor: float
    floors: dict[str, Mark] = {}
    may_use_cache: bool = False


class Admitted(msgspec.Struct, frozen=True, kw_only=True, tag="admitted"):
    """The answer to Admit: the roles that were verified, and what may be carried out.

    `proved` is the latest time that something verified says it was signed at.
    The envelope's own refusal stands in `fault`: the repository was verified nevertheless.
    """

    marks: dict[str, Mark]
    proved: float
    assignment: Assignment | None = None
    fault: Fault | None = None


class SignReport(msgspec.Struct, frozen=True, kw_only=True, tag="sign_report"):
    """Sign a report with the device's key."""

    key_path: str
    report: Report


class Signed(msgspec.Struct, frozen=True, kw_only=True, tag="signed"):
    """The answer to SignReport."""

    envelope: bytes


class PrepareState(msgspec.Struct, frozen=True, kw_only=True, tag="prepare_state"):
    """Make the tables of state.db."""

    path: str


class Prepared(msgspec.Struct, frozen=True, kw_only=True, tag="prepared"):
    """The answer to PrepareState."""


class Renew(msgspec.Struct, frozen=True, kw_only=True, tag="renew"):
    """Renew the device's certificate, if it is time."""

    state_dir: str
    now: float
    key_file: str | None = None


class Renewed(msgspec.Struct, frozen=True, kw_only=True, tag="renewed"):
    """The answer to Renew: whether there is a new certificate, when it is due and when it ends."""

    is_new: bool
    due: float
    expires: float


class FetchChunks(msgspec.Struct, frozen=True, kw_only=True, tag="fetch_chunks"):
    """Fetch chunks over HTTPS, each from the first of `urls` that has it.

    The digest takes the place of `{digest}`. `ca` is trusted beside the system's authorities.
    """

    urls: tuple[str, ...]
    ca: str
    digests: Annotated[tuple[Digest, ...], Meta(max_length=CHUNKS_PER_FETCH_MAX)]
    timeout_s: float


class FetchedChunks(msgspec.Struct, frozen=True, kw_only=True, tag="fetched_chunks"):
    """The answer to FetchChunks: what could be had, verified; `fault` says why not all."""

    chunks: dict[str, bytes]
    fault: Fault | None = None


class CheckRelease(msgspec.Struct, frozen=True, kw_only=True, tag="check_release"):
    """Say whether the owners allow a model, by what this device verified last, however old."""

    metadata_dir: str
    root: bytes
    floors: dict[str, Mark]
    family: Family
    model: ModelReference


class Allowed(msgspec.Struct, frozen=True, kw_only=True, tag="allowed"):
    """The answer to CheckRelease: they do."""


class ApplyPatch(msgspec.Struct, frozen=True, kw_only=True, tag="apply_patch"):
    """Make a file from the one at `source`, and keep its chunks with the others in `chunks_dir`.

    `patch` names the chunks of the patch, in order, `target` is the file as its manifest lists it.
    """

    chunks_dir: str
    source: str
    patch: tuple[Digest, ...]
    target: FileEntry


class Applied(msgspec.Struct, frozen=True, kw_only=True, tag="applied"):
    """The answer to ApplyPatch: how many bytes of the file were not there before."""

    bytes: int


Request = CheckRelease | Admit | SignReport | PrepareState | Renew | FetchChunks | ApplyPatch


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """How a task says no."""

    code: Annotated[str, Meta(max_length=128)]
    message: str
    hint: str = ""


Answer = Allowed | Admitted | Signed | Prepared | Renewed | FetchedChunks | Applied | Refusal


def parse_answer(body: bytes) -> Answer:
    """Read what a task answered. Raises Malformed."""
    try:
        answer: Answer = msgspec.json.decode(body, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"a task's answer cannot be read: {error}") from error
    return answer
