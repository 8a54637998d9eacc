"""How often the interpreter looks for cycles of garbage: seldom, in a process that takes in much.

A batch of messages is many objects that live for a moment, none of them in a cycle. With Python's
defaults the collector walks over them, and over all that was imported, many times a second.
"""

from __future__ import annotations

import gc
from typing import Final

# Objects made, less those freed, before a look at the young ones; and how many of these looks
# before one at the older ones. At some hundred bytes each, what waits is ten megabytes at most.
_YOUNG: Final = 50_000
_OLDER: Final = 20


def look_seldom() -> None:
    """Leave what there is out of all looks from now on, and look seldom at what comes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OLDER, _OLDER)
