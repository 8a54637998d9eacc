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
    from collections.abc import Callable, Iterator

    from control_plane.store.cohorts import CohortRows
    from control_plane.store.devices import Devices
    from firmware_bundles.capabilities import Capabilities


class Cohort(NamedTuple):
    """A cohort and how many devices belong to it now."""

    name: str
    selector: str
    created: float
    devices: int


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
        return Cohort(*row, devices=len(self.select(row.selector)))

    def all(self) -> list[Cohort]:
        """Return all cohorts by name."""
        labels = self._devices.labels()
        found = []
        for row in self._rows.all():
            matches = selectors.parse(row.selector).matches
            found.append(Cohort(*row, devices=sum(matches(each) for _, each in labels)))
        return found

    def members(self, name: str) -> list[str]:
        """Return the ids of the devices that belong to a cohort now. Raises NotFound."""
        return self.select(self._row(name).selector)

    def capabilities(self) -> Iterator[tuple[str, Capabilities]]:
        """Yield what each device offers to a model, as its inventory says."""
        for device_id, facts in self._devices.inventories(capabilities.FACTS):
            yield device_id, capabilities.of_inventory(facts)

    def select(self, selector: str) -> list[str]:
        """Return the ids of the devices that a selector matches. Raises SelectorInvalid."""
        matches = selectors.parse(selector).matches
        return [device_id for device_id, labels in self._devices.labels() if matches(labels)]

    def _row(self, name: str) -> CohortRow:
        row = self._rows.find(name)
        if row is None:
            raise NotFound(f"there is no cohort {name!r:.80}")
        return row
