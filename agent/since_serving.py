"""How much was counted while each family's present model served, as reports tell it.

Known since the agent's start, or since a report first named the model. One process on one machine
serves all families: a death of the worker, or a joule, is one for each of them.
"""

from __future__ import annotations


class SinceServing:
    """Remembers what a count stood at when each family's model was first told of."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int]] = {}

    def of(self, family: str, model: str, count: int) -> int:
        """Return the part since this model serves; `count` is all since the agent's start."""
        known, before = self._first.get(family, ("", 0))
        if known != model:
            self._first[family] = model, count
            return 0
        return max(0, count - before)
