"""What a policy captures of a slot's model, kept beside the slot for the worker to read.

    <root>/<family>/capture-{A,B}.json     the digest of the manifest, and the policy

A file of another model than the slot holds means nothing: so going back to the other slot also
brings that one's policy back. Light: the core imports this.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, UnsetType

from firmware_bundles import durable
from firmware_bundles.errors import Malformed
from firmware_bundles.identifiers import Digest
from firmware_bundles.wire.messages import Capture

if TYPE_CHECKING:
    from pathlib import Path

    from agent.deployment.slots import Slot

_BYTES_MAX: Final = 64 * 1024


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The policy for one model."""

    digest: Digest
    capture: Capture


def write(slot: Slot, digest: str, capture: Capture | UnsetType) -> bool:
    """Keep the policy for a slot's model, durably; UNSET keeps none. Raises OSError.

    Returns whether that is a change.
    """
    path = _path(slot)
    if capture is UNSET:
        with suppress(FileNotFoundError):
            path.unlink()
            durable.sync_directory(path.parent)
            return True
        return False
    data = msgspec.json.encode(Kept(digest=digest, capture=capture))
    with suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
    durable.write(path, data)
    return True


def read(slot: Slot, digest: str) -> Capture | None:
    """Return what is to be captured of the model with this digest. Raises Malformed, OSError."""
    try:
        with _path(slot).open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    kept = parse(data)
    return kept.capture if kept.digest == digest else None


def parse(data: bytes) -> Kept:
    """Read such a file. Raises Malformed."""
    if len(data) > _BYTES_MAX:
        raise Malformed(f"the policy for captures has more than {_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the policy for captures cannot be read: {error}") from error


def _path(slot: Slot) -> Path:
    return slot.directory.parent / f"capture-{slot.name}.json"
