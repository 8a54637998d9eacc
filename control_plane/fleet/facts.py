"""What devices report of themselves, in the form of labels, so that selectors can name it. Pure.

`fact/NAME` is a fact of the inventory, `serves/FAMILY` the version that answers, `delegate/FAMILY`
the accelerator that it runs on. Nobody can set these as labels.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from control_plane.fleet import labels as label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FACT: Final = "fact/"
SERVES: Final = "serves/"
DELEGATE: Final = "delegate/"
FACTS_MAX: Final = 128
# Of a fleet most names and values come again with every report.
_KNOWN_MAX: Final = 4_096
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]+")


class Served(NamedTuple):
    """What a device said, signed, that it serves of a family, and on which accelerator."""

    family: str
    version: str | None
    delegate: str | None


def reported(inventory: Mapping[str, Any], served: Iterable[Served] = ()) -> dict[str, str]:
    """Return what a device says of itself, as selectors name it; at most `FACTS_MAX` facts.

    Blanks and other characters that no value has become `-`; what is too long is left out.
    """
    said = [(FACT + name, value) for name, value in sorted(inventory.items())]
    for each in served:
        said += [(SERVES + each.family, each.version), (DELEGATE + each.family, each.delegate)]
    found = {
        key: text for key, value in said if _is_key(key) and (text := worded(value)) is not None
    }
    return dict(list(found.items())[-FACTS_MAX:])


def worded(value: object) -> str | None:
    """Return a fact as a label's value, None where it is not known or is none."""
    return _worded(value) if isinstance(value, str | int | float) else None


_is_key: Final = lru_cache(_KNOWN_MAX)(label.is_key)


@lru_cache(_KNOWN_MAX, typed=True)
def _worded(value: str | float) -> str | None:
    match value:
        case bool():
            return str(value).lower()
        case int():
            text = str(value)
        case float():
            text = f"{value:.12g}"
        case str():
            text = _FOREIGN.sub("-", value).strip("._-")
    return text if text and (label.is_value(text) or text.removeprefix("-").isdecimal()) else None
