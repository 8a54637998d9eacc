"""How much of a family's predictions leaves the device: what the newest order says of it.

It lies beside the family's slots, where the worker reads it, and stays when a model goes back.
Without it all leaves.

    <root>/<family>/upload.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from agent.deployment import slots
from firmware_bundles import durable
from firmware_bundles.wire.messages import Uploading

NAME: Final = "upload.json"
_BYTES_MAX: Final = 4096


def write(root: Path, family: str, policy: Uploading) -> None:
    """Keep what the newest order says. Raises SlotUnwritable or StorageFull."""
    path = root / family / NAME
    if read(root, family) == policy:
        return
    try:
        durable.write(path, msgspec.json.encode(policy))
    except OSError as error:
        raise slots.unwritable(f"upload policy of {family}", error) from error


def read(root: Path, family: str) -> Uploading:
    """Return what the newest order said; that all leaves, where nothing readable is there."""
    try:
        with (root / family / NAME).open("rb") as file:
            return msgspec.json.decode(file.read(_BYTES_MAX), type=Uploading)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Uploading()
