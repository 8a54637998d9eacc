"""How often the worker died while each family's present model served, as reports tell it.

Known since the agent's start, or since a report first named the model. One process serves all
families: its death is one for each of them. What a worker died of is the worker's own affair.
"""

from __future__ import annotations


class ServiceDeaths:
    """Remembers the worker's deaths at the time when each family's model was first told of."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int]] = {}

    def of(self, family: str, model: str, deaths: int) -> int:
        """Return the deaths since this model serves; `deaths` are all since the agent's start."""
        known, before = self._first.get(family, ("", 0))
        if known != model:
            self._first[family] = model, deaths
            return 0
        return max(0, deaths - before)
