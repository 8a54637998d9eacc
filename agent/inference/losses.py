"""Which accelerators were lost in service, and how long each is held off. Pure but for load, store.

A key is family/delegate. What is in use is written down before it is used: a worker that finds its
predecessor's note knows what that one died of, or might have, and begins on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from firmware_bundles import durable
from firmware_bundles.errors import Malformed

FILE_NAME: Final = "delegates.json"
DIED: Final = "the worker died while it was in use"

_PAUSE_S_MAX: Final = 86400.0
_DOUBLINGS_MAX: Final = 32
_FORGIVEN_S: Final = 7 * 86400.0  # a loss longer ago than this does not count with the next
_FILE_BYTES_MAX: Final = 1024 * 1024


class Loss(msgspec.Struct, frozen=True):
    """So many losses, the last at a time in Unix seconds, for this reason."""

    count: Annotated[int, Meta(ge=1)]
    at: float
    reason: Annotated[str, Meta(max_length=4096)]


class Losses(msgspec.Struct, frozen=True):
    """The note: what is in use now, since the `boot` of this id, and what was lost."""

    in_use: frozenset[str] = frozenset()
    lost: dict[str, Loss] = {}
    boot: Annotated[str, Meta(max_length=64)] = ""


def lose(loss: Loss | None, reason: str, now: float) -> Loss:
    """Count one loss more."""
    is_forgiven = loss is None or not 0 <= now - loss.at < _FORGIVEN_S
    return Loss(1 if loss is None or is_forgiven else loss.count + 1, now, reason[:4096])


def wait_s(loss: Loss | None, retry_s: float, now: float) -> float:
    """Return how long it is still held off, 0 for not at all.

    A clock that went back holds nothing off for longer than the pause itself.
    """
    if loss is None:
        return 0.0
    pause_s = max(retry_s, min(retry_s * 2.0 ** min(loss.count - 1, _DOUBLINGS_MAX), _PAUSE_S_MAX))
    return min(pause_s, max(0.0, loss.at + pause_s - now))


def used(note: Losses, key: str, boot: str) -> Losses:
    """Return the note with `key` in use."""
    return replace(note, in_use=note.in_use | {key}, boot=boot)


def released(note: Losses, key: str) -> Losses:
    """Return the note with `key` out of use, and nothing wrong with it."""
    return replace(note, in_use=note.in_use - {key})


def lost(note: Losses, key: str, reason: str, now: float) -> Losses:
    """Return the note with `key` out of use, and counted as lost."""
    after = released(note, key)
    return replace(after, lost={**note.lost, key: lose(note.lost.get(key), reason, now)})


def after_death(note: Losses, now: float, boot: str) -> Losses:
    """Return the note for a new worker: what was in use at the end of the last one was lost.

    Unless that was before this boot: power that goes is no fault of an accelerator.
    """
    if note.boot != boot:
        return replace(note, in_use=frozenset())
    for key in sorted(note.in_use):
        note = lost(note, key, DIED, now)
    return note


def load(folder: Path) -> Losses:
    """Read the note; a damaged one says nothing."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            return parse(file.read(_FILE_BYTES_MAX))
    except (OSError, Malformed):
        return Losses()


def parse(data: bytes) -> Losses:
    """Read a note's bytes. Raises Malformed."""
    try:
        return msgspec.json.decode(data, type=Losses)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the note cannot be read: {error}") from error


def store(folder: Path, note: Losses) -> None:
    """Write the note, durably. Raises OSError."""
    durable.write(folder / FILE_NAME, msgspec.json.encode(note), mode=0o600)
