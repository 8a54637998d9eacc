"""The seal of a slot: which manifest it was filled with, and whether that model proved itself.

A small file in the slot itself, so that the worker can tell without any database what it may fall
back to, and that the manifest is still the one that was signed. Counts and times stand in state.db.

    <root>/<family>/{A,B}/seal          64 hexadecimal digits, a blank, the mark, a line feed
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles import durable
from firmware_bundles.errors import SlotBroken

if TYPE_CHECKING:
    from pathlib import Path

SEAL_NAME: Final = "seal"
_BYTES_MAX: Final = 128
_TEXT: Final = re.compile(r"([0-9a-f]{64}) (untried|good|bad)\n")


class Mark(StrEnum):
    """What is known of a slot's model. Nothing falls back to one that is not GOOD."""

    UNTRIED = "untried"
    GOOD = "good"
    BAD = "bad"


class Seal(NamedTuple):
    """The digest of the manifest that the slot was filled with, and the mark."""

    digest: str
    mark: Mark


def read(directory: Path) -> Seal | None:
    """Return the seal of a slot's folder, None where an agent without seals filled it.

    Raises SlotBroken.
    """
    try:
        with (directory / SEAL_NAME).open("rb") as file:
            text = file.read(_BYTES_MAX).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SlotBroken(f"the seal in {directory} cannot be read: {error.strerror}") from error
    found = _TEXT.fullmatch(text)
    if found is None:
        raise SlotBroken(f"the seal in {directory} is damaged")
    return Seal(found[1], Mark(found[2]))


def write(directory: Path, seal: Seal) -> None:
    """Replace the seal, durably. Raises OSError."""
    durable.write(directory / SEAL_NAME, f"{seal.digest} {seal.mark}\n".encode())
