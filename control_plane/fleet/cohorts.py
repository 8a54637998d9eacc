"""Cohorts: named selectors, or lists of devices. Who belongs to one is asked anew each time.

A selector takes in whoever matches it later; a list does not. A device without access belongs to
no cohort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.audit import SERVICE
from control_plane.fleet import selectors
from control_plane.fleet.selectors import LISTED_MAX, Listed, Selector
from control_plane.store.cohorts import CohortRow
from firmware_bundles import capabilities
from firmware_bundles.errors import InputError, NotFound
from firmware_bundles.identifiers import CohortName, DeviceId, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.cohorts import CohortRows
    from control_plane.store.devices import Devices
    from firmware_bundles.capabilities import Capabilities

EXAMPLES_MAX: Final = 10


class Cohort(NamedTuple):
    """A cohort and how many devices belong to it now; `listed` are the devices of a list."""

    name: str
    selector: str
    created: float
    listed: tuple[str, ...] | None
    devices: int


class Match(NamedTuple):
    """What a selector matches now: how many devices, and some of them."""

    devices: int
    examples: tuple[str, ...]


class Kind(NamedTuple):
    """Devices that offer the same to a model, and the first of them.

    `facts` is what they say of it, as text; empty where they do not.
    """

    capabilities: Capabilities
    devices: int
    example: str
    facts: tuple[str, ...] = ()


class Cohorts:
    """All cohorts of the fleet."""

    def __init__(self, rows: CohortRows, devices: Devices, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._devices = devices
        self._clock = clock

    def create(
        self,
        name: str,
        selector: str,
        by: str = SERVICE,
        *,
        listed: Sequence[str] | None = None,
    ) -> Cohort:
        """Name a selector, or a list of devices, as the actor `by` asks.

        Raises SelectorInvalid, InputError, Malformed, ConflictError.
        """
        self._rows.add(self._checked(name, selector, listed), by)
        return self.get(name)

    def put(
        self,
        name: str,
        selector: str,
        by: str = SERVICE,
        *,
        listed: Sequence[str] | None = None,
    ) -> Cohort:
        """Name it, or give what has the name another meaning; raises as `create` otherwise."""
        self._rows.put(self._checked(name, selector, listed), by)
        return self.get(name)

    def delete(self, name: str, by: str = SERVICE) -> None:
        """Forget a name. Raises NotFound, ConflictError while an open rollout goes by it."""
        self._rows.delete(name, self._clock(), by)

    def get(self, name: str) -> Cohort:
        """Return a cohort. Raises NotFound."""
        row = self._row(name)
        return Cohort(*row, devices=self.count(_meaning(row)))

    def all(self) -> list[Cohort]:
        """Return all cohorts by name."""
        rows = self._rows.all()
        return [Cohort(*row, devices=self.count(_meaning(row))) for row in rows]

    def selector(self, name: str) -> Selector:
        """Return what a cohort stands for. Raises NotFound."""
        return _meaning(self._row(name))

    def members(self, name: str) -> list[str]:
        """Return the ids of the devices that belong to a cohort now. Raises NotFound."""
        return self._devices.members(self.selector(name))

    def count(self, selector: Selector) -> int:
        """Count the devices that a selector matches now."""
        return self._devices.count(selector)

    def preview(self, selector: Selector) -> Match:
        """Return how many devices a selector matches now, and the first of them."""
        first = self._devices.members(selector, limit=EXAMPLES_MAX)
        return Match(self.count(selector), tuple(first))

    def all_members(self) -> dict[str, list[str]]:
        """Return the devices of every cohort now, by its name."""
        return {row.name: self._devices.members(_meaning(row)) for row in self._rows.all()}

    def serving(self, selector: Selector, family: str) -> int:
        """Count those of them that serve a model of a family, by their own word."""
        return self._devices.count_serving(selector, family)

    def kinds(self, selector: Selector) -> list[Kind]:
        """Return the same devices by what they offer to a model, as their inventories say."""
        rows = self._devices.kinds(selector, capabilities.FACTS)
        return [
            Kind(
                capabilities.of_inventory(facts),
                devices,
                example,
                tuple("" if facts[name] is None else str(facts[name]) for name in facts),
            )
            for facts, devices, example in rows
        ]

    def _checked(self, name: str, selector: str, listed: Sequence[str] | None) -> CohortRow:
        parse(CohortName, name, "cohort name")
        selectors.parse(selector)
        if listed is None:
            return CohortRow(name, selector, self._clock())
        if selector:
            raise InputError("a cohort is a selector or a list of devices, not both")
        if len(listed) > LISTED_MAX:
            raise InputError(
                f"{len(listed)} devices; a list has at most {LISTED_MAX}",
                hint="Give these devices a label, and select it.",
            )
        for device_id in listed:
            parse(DeviceId, device_id, "device id")
        return CohortRow(name, "", self._clock(), tuple(sorted(set(listed))))

    def _row(self, name: str) -> CohortRow:
        row = self._rows.find(name)
        if row is None:
            raise NotFound(f"there is no cohort {name!r:.80}")
        return row


def _meaning(row: CohortRow) -> Selector:
    if row.listed is None:
        return selectors.parse(row.selector)
    return Selector((Listed(frozenset(row.listed)),))
