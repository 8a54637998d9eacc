"""A row of the table of attacks: the threat, whose refusal counts, and its code.

`docs/reference/attacks.md` shows the same rows; the docstring of a row says what the thief does.
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from support.scene import Scene

    Play = Callable[[Scene], Iterator[None]]


class Victim(Enum):
    """Whose refusal counts: the device's, the control plane's about the device, about the other."""

    DEVICE = "device"
    CONTROL_PLANE = "control plane"
    CONTROL_PLANE_OF_THE_OTHER = "control plane, of the thief's own device"
    NOBODY = "nobody"


class Attack(NamedTuple):
    """A row; `code` is empty where nothing tells the attack from a silent or slow network."""

    name: str
    threat: str
    victim: Victim
    code: str
    stage: Callable[[Scene], AbstractContextManager[None]]


def collected(rows: list[Attack]) -> Callable[[str, Victim, str], Callable[[Play], Play]]:
    """Return the decorator that adds a row, named after the function that plays it."""

    def attack(threat: str, victim: Victim, code: str) -> Callable[[Play], Play]:
        def add(play: Play) -> Play:
            name = play.__name__.replace("_", "-")
            rows.append(Attack(name, threat, victim, code, contextmanager(play)))
            return play

        return add

    return attack
