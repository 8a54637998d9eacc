"""Cohorts: named selectors. Who belongs to one is asked anew each time, never stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from control_plane.audit import SERVICE
from control_plane.fleet import selectors
from control_plane.store.cohorts import CohortRow
from firmware_bundles import capabilities
from firmware_bundles.errors import NotFound
from firmware_bundles.identifiers import CohortName, parse

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.fleet.selectors import Selector
    from control_plane.store.cohorts import CohortRows
    from control_plane.store.devices import Devices
    from firmware_bundles.capabilities import Capabilities


class Cohort(NamedTuple):
    """A cohort and how many devices belong to it now."""

    name: str
    selector: str
    created: float
    devices: int


class Kind(NamedTuple):
    """Devices that offer the same to a model, and the first of them."""

    capabilities: Capabilities
    devices: int
    example: str


class Cohorts:
    """All cohorts of the fleet."""

    def __init__(self, rows: CohortRows, devices: Devices, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._devices = devices
        self._clock = clock

    def create(self, name: str, selector: str, by: str = SERVICE) -> Cohort:
        """Name a selector, as the actor `by` asks.

        Raises SelectorInvalid, Malformed, ConflictError.
        """
        parse(CohortName, name, "cohort name")
        selectors.parse(selector)
        self._rows.add(CohortRow(name, selector, self._clock()), by)
        return self.get(name)

    def get(self, name: str) -> Cohort:
        """Return a cohort. Raises NotFound."""
        row = self._row(name)
        return Cohort(*row, devices=self.count(selectors.parse(row.selector)))

    def all(self) -> list[Cohort]:
        """Return all cohorts by name."""
        rows = self._rows.all()
        return [Cohort(*row, devices=self.count(selectors.parse(row.selector))) for row in rows]

    def selector(self, name: str) -> Selector:
        """Return what a cohort stands for. Raises NotFound."""
        return selectors.parse(self._row(name).selector)

    def members(self, name: str) -> list[str]:
        """Return the ids of the devices that belong to a cohort now. Raises NotFound."""
        return self._devices.members(self.selector(name))

    def count(self, selector: Selector) -> int:
        """Count the devices that a selector matches now."""
        return self._devices.count(selector)

    def kinds(self, selector: Selector) -> list[Kind]:
        """Return the same devices by what they offer to a model, as their inventories say."""
        rows = self._devices.kinds(selector, capabilities.FACTS)
        return [
            Kind(capabilities.of_inventory(facts), devices, example)
            for facts, devices, example in rows
        ]

    def _row(self, name: str) -> CohortRow:
        row = self._rows.find(name)
        if row is None:
            raise NotFound(f"there is no cohort {name!r:.80}")
        return row
