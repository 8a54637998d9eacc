"""Which devices a rollout is for: its cohort, without those that it leaves out, with the reasons.

The same choice is made when a rollout starts and while it runs, for devices that come later. Never
device by device, for there may be a million. The order of offers is settled in `order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from control_plane.fleet import selectors
from control_plane.fleet.selectors import Listed, OfKinds, Selector, Without
from control_plane.rollouts.spec import Exclusions, RolloutSpec
from firmware_bundles import capabilities
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.manifest import Needs

EXCLUDED: Final = "the rollout file excludes them"
REASONS_MAX: Final = 20
NAMED_MAX: Final = 3


class Kind(Protocol):
    """Devices that offer the same to a model."""

    @property
    def capabilities(self) -> Capabilities:
        """What each of them offers, by its own report."""

    @property
    def devices(self) -> int:
        """How many there are."""

    @property
    def example(self) -> str:
        """The first of them."""

    @property
    def facts(self) -> tuple[str, ...]:
        """The facts of `capabilities.FACTS` as text, by which they are found."""


class Fleet(Protocol):
    """Where devices are looked up."""

    def selector(self, cohort: str, /) -> Selector:
        """Return what a cohort stands for. Raises NotFound."""

    def count(self, selector: Selector, /) -> int:
        """Count the devices that a selector matches now."""

    def kinds(self, selector: Selector, /) -> Sequence[Kind]:
        """Return the same devices by what they offer."""

    def serving(self, selector: Selector, family: str, /) -> int:
        """Count those of them that serve a model of a family."""


class LeftOut(NamedTuple):
    """So many devices of the cohort that the rollout is not for, some of them, and why."""

    reason: str
    devices: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = ", ..." if self.examples and len(self.examples) < self.devices else ""
        named = f" ({', '.join(self.examples)}{more})" if self.examples else ""
        count = "1 device" if self.devices == 1 else f"{self.devices} devices"
        return f"left out {count}{named}: {self.reason}"


class Chosen(NamedTuple):
    """The devices that a rollout is for, how many there are now, and those that are left out.

    Of them `unknown` do not say what their interpreter can do.
    """

    members: Selector
    devices: int
    left_out: tuple[LeftOut, ...] = ()
    unknown: int = 0


def choose(spec: RolloutSpec, needs: Needs, fleet: Fleet) -> Chosen:
    """Return the devices of the cohort that are not excluded and can run the release.

    Raises NotFound, SelectorInvalid.
    """
    cohort = fleet.selector(spec.cohort)
    allowed = cohort.where(*_exclusions(spec.exclude, fleet))
    left_out: list[LeftOut] = []
    if allowed != cohort and (excluded := fleet.count(cohort) - fleet.count(allowed)):
        left_out.append(LeftOut(EXCLUDED, excluded))
    kinds = fleet.kinds(allowed)
    unfit = [
        (kind, "; ".join(lacks))
        for kind in kinds
        if (lacks := capabilities.lacking(needs, kind.capabilities))
    ]
    left_out += _grouped(unfit)
    members = allowed
    if unfit:
        values = frozenset(kind.facts for kind, _ in unfit)
        members = allowed.where(Without(Selector((OfKinds(capabilities.FACTS, values),))))
    devices = sum(kind.devices for kind in kinds) - sum(kind.devices for kind, _ in unfit)
    unknown = sum(kind.devices for kind in kinds if not kind.capabilities.operations)
    return Chosen(members, devices, tuple(left_out), unknown)


def _exclusions(exclude: Exclusions, fleet: Fleet) -> list[Without]:
    found = [Without(fleet.selector(cohort)) for cohort in exclude.cohorts]
    if exclude.devices:
        found.append(Without(Selector((Listed(frozenset(exclude.devices)),))))
    if exclude.selector is not None:
        found.append(Without(selectors.parse(exclude.selector)))
    return found


def _grouped(unfit: Sequence[tuple[Kind, str]]) -> list[LeftOut]:
    """Return how many devices lack what, the most frequent first; rare reasons together."""
    found: dict[str, list[Kind]] = {}
    for kind, reason in unfit:
        found.setdefault(f"cannot run it: {reason}", []).append(kind)
    told = [_told(reason, kinds) for reason, kinds in found.items()]
    told.sort(key=lambda each: (-each.devices, each.reason))
    if rest := told[REASONS_MAX:]:
        others = LeftOut("cannot run it, for other reasons", sum(each.devices for each in rest))
        told = [*told[:REASONS_MAX], others]
    return told


def _told(reason: str, kinds: Sequence[Kind]) -> LeftOut:
    examples = sorted(kind.example for kind in kinds)[:NAMED_MAX]
    return LeftOut(reason, sum(kind.devices for kind in kinds), tuple(examples))
