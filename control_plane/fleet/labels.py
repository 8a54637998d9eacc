"""Labels: what an operator says about a device. Pure. Selectors over them stand in `selectors`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LABELS_PER_DEVICE_MAX: Final = 64
# What devices report is named so; see `facts`.
RESERVED: Final = ("fact/", "serves/", "delegate/")
_CHARS_MAX: Final = 63
_KEY: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)?")
_RULE: Final = (
    f"letters, digits, '.', '_' and '-', at most {_CHARS_MAX}, a letter or digit at both ends"
)


def is_key(text: str) -> bool:
    """Whether `text` may name a label; a slash is allowed inside."""
    return len(text) <= _CHARS_MAX and _KEY.fullmatch(text) is not None


def is_value(text: str) -> bool:
    """Whether `text` may be a label's value; it may be empty."""
    return len(text) <= _CHARS_MAX and _VALUE.fullmatch(text) is not None


def check(labels: Mapping[str, str | None]) -> None:
    """Refuse labels that no selector could name. None stands for one to remove.

    Raises InputError.
    """
    if len(labels) > LABELS_PER_DEVICE_MAX:
        raise InputError(f"{len(labels)} labels; at most {LABELS_PER_DEVICE_MAX} are allowed")
    for key, value in labels.items():
        if not is_key(key):
            raise InputError(f"{key!r:.80} cannot name a label", hint=f"A name is {_RULE}.")
        if value is not None and not is_value(value):
            raise InputError(
                f"label {key}: {value!r:.80} cannot be a value", hint=f"A value is {_RULE}."
            )
        if key.startswith(RESERVED):
            raise InputError(
                f"label {key}: what begins with {key.partition('/')[0]}/ is reported by the device",
                hint="Choose another name for the label.",
            )
