"""The audit log as values: what an entry says, how entries are chained, what broke a chain. Pure.

Each entry holds the digest of the one before it, so that nobody changes, removes, inserts or moves
one without breaking what follows. Entries cut off at the end break nothing: that is found with a
head that was noted elsewhere. Rows are in `store.audit`; who says what stands with each subject.

The digest is SHA-256 over netstrings (`LENGTH:BYTES,`) of: the name of this format, number,
previous digest, time in milliseconds, actor, action, subject and details, numbers in decimal and
texts in UTF-8. Details are the JSON text that is stored, taken as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from firmware_bundles.errors import InputError, Malformed

FORMAT: Final = "shoal-audit-1"
SERVICE: Final = "service"
TEXT_CHARS_MAX: Final = 512
DETAILS_BYTES_MAX: Final = 64 * 1024
LINE_BYTES_MAX: Final = 512 * 1024
FAULTS_MAX: Final = 100
_HEAD: Final = re.compile("([0-9]{1,16}):([0-9a-f]{64})", re.ASCII)

Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
NUMBER_MAX: Final = 2**53
Number = Annotated[int, Meta(ge=1, le=NUMBER_MAX)]


class Head(NamedTuple):
    """Where a log ends: number and digest of its last entry. Noted elsewhere, it binds the log."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number}:{self.digest}"


GENESIS: Final = Head(0, "0" * 64)


class Statement(NamedTuple):
    """What is to be told: at a time (Unix seconds) somebody did something to something.

    `actor` is `service`, `token:NAME:PREFIX`, with `:PERSON` where the token is of somebody of
    another name, or `device:ID`; `action` is `subject.verb`, and `subject` is `KIND/NAME`.
    `details` are plain JSON values.
    """

    at: float
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any] = {}


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement in its place in the chain; `details` is JSON text, `at_ms` Unix milliseconds."""

    number: Number
    at_ms: Annotated[int, Meta(ge=-NUMBER_MAX, le=NUMBER_MAX)]
    actor: str
    action: str
    subject: str
    details: str
    previous: Digest
    digest: Digest

    @property
    def head(self) -> Head:
        """What the log ends with, where this entry is the last."""
        return Head(self.number, self.digest)


class Break(StrEnum):
    """How a chain is broken."""

    CHANGED = "changed"
    MISSING = "missing"
    MISPLACED = "misplaced"
    REPLACED = "replaced"
    CUT_OFF = "cut_off"


class Fault(NamedTuple):
    """What is wrong with a log, and at which entry."""

    number: int
    kind: Break
    sentence: str


class Verification(NamedTuple):
    """What came out of checking a log; only the first faults are told, `more` counts the others."""

    entries: int
    head: Head
    faults: tuple[Fault, ...] = ()
    more: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing was found wrong."""
        return not self.faults


def follow(head: Head, statement: Statement) -> Entry:
    """Return the entry that tells `statement` after `head`."""
    entry = Entry(
        number=head.number + 1,
        at_ms=round(statement.at * 1000),
        actor=_clean(statement.actor),
        action=_clean(statement.action),
        subject=_clean(statement.subject),
        details=canonical(statement.details),
        previous=head.digest,
        digest=GENESIS.digest,
    )
    return msgspec.structs.replace(entry, digest=digest_of(entry))


def canonical(details: Mapping[str, Any]) -> str:
    """Return details as JSON text with sorted keys and no spaces.

    What is longer than `DETAILS_BYTES_MAX` is told by its length and digest instead: an entry never
    keeps from happening what it tells.
    """
    text = msgspec.json.encode(details, order="sorted", enc_hook=str)
    if len(text) > DETAILS_BYTES_MAX:
        short = {"left_out_bytes": len(text), "left_out_sha256": hashlib.sha256(text).hexdigest()}
        text = msgspec.json.encode(short, order="sorted")
    return text.decode()


def digest_of(entry: Entry) -> str:
    """Return the digest that an entry must have."""
    parts = (
        FORMAT,
        str(entry.number),
        entry.previous,
        str(entry.at_ms),
        entry.actor,
        entry.action,
        entry.subject,
        entry.details,
    )
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hashed.update(b"%d:%b," % (len(data), data))
    return hashed.hexdigest()


def verify(entries: Iterable[Entry], noted: Iterable[Head] = ()) -> Verification:
    """Check a log from its first entry on, in the order in which it is stored.

    `noted` are heads that were noted elsewhere: the log must have had them.
    """
    wanted: dict[int, set[Head]] = {}
    for head in noted:
        if head.number:
            wanted.setdefault(head.number, set()).add(head)
    faults: list[Fault] = []
    last, count = GENESIS, 0
    for entry in entries:
        count += 1
        faults += _faults_of(entry, last)
        if entry.number > last.number and any(
            head != entry.head for head in wanted.pop(entry.number, ())
        ):
            faults.append(_not_as_noted(entry))
        last = max(last, entry.head, key=lambda each: each.number)
    faults += [_cut_off(last, number) for number in sorted(wanted)]
    return Verification(count, last, tuple(faults[:FAULTS_MAX]), max(len(faults) - FAULTS_MAX, 0))


def _faults_of(entry: Entry, last: Head) -> list[Fault]:
    number, faults = entry.number, []
    if digest_of(entry) != entry.digest:
        what = f"entry {number} was changed: its digest is another"
        faults.append(Fault(number, Break.CHANGED, what))
    if number <= last.number:
        what = f"entry {number} stands after entry {last.number}: it was moved or inserted"
        faults.append(Fault(number, Break.MISPLACED, what))
    elif number > last.number + 1:
        gone = f"entries {last.number + 1} to {number - 1} are"
        if number == last.number + 2:
            gone = f"entry {number - 1} is"
        what = f"{gone} missing before entry {number}"
        faults.append(Fault(last.number + 1, Break.MISSING, what))
    elif entry.previous != last.digest:
        what = (
            f"entry {number} does not follow the entry {last.number} that stands here: one of "
            "them was replaced, with a digest of its own"
        )
        faults.append(Fault(last.number or number, Break.REPLACED, what))
    return faults


def _not_as_noted(entry: Entry) -> Fault:
    what = (
        f"entry {entry.number} is not the one whose head was noted: it, or one before it, was "
        "replaced, and all that follows was made to fit"
    )
    return Fault(entry.number, Break.REPLACED, what)


def _cut_off(last: Head, number: int) -> Fault:
    what = (
        f"the log ends with entry {last.number}, and the head of entry {number} was noted: "
        "what followed was cut off, or an older backup was restored"
    )
    return Fault(last.number + 1, Break.CUT_OFF, what)


def parse_head(text: str) -> Head:
    """Read a head as it was noted, `NUMBER:DIGEST`. Raises InputError."""
    found = _HEAD.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"{text!r:.100} is no head of an audit log",
            hint="A head is NUMBER:DIGEST, as 'shoal audit head' prints it.",
        )
    return Head(int(found[1]), found[2])


def parse_line(line: bytes) -> Entry:
    """Read an entry as it was exported. Raises Malformed."""
    if len(line) > LINE_BYTES_MAX:
        raise Malformed(f"an entry of an audit log has at most {LINE_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"this is no entry of an audit log: {error}") from error


def encode_line(entry: Entry) -> bytes:
    """Return an entry as it is exported, without the end of the line."""
    return msgspec.json.encode(entry)


def _clean(text: str) -> str:
    """Return a text that every database stores as it is."""
    kept = text[:TEXT_CHARS_MAX].replace("\0", "\\0")
    return kept.encode(errors="backslashreplace").decode()
