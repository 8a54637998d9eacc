"""From a rollout file to a rollout that can start: the release and the devices that it means.

Nothing is stored here; `shoal rollout start --dry-run` shows what would be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from control_plane.fleet.selectors import Selector
from control_plane.rollouts.model import PhaseState, Rollout, Standing
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles import capabilities
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.errors import NotFound, RolloutInvalid
from firmware_bundles.manifest import Manifest

_VERSION_CHARS_MAX: Final = 20
_UNFIT_NAMED_MAX: Final = 5


class Release(Protocol):
    """What has to be known of a release."""

    @property
    def path(self) -> str:
        """The owners' path of its manifest."""

    @property
    def digest(self) -> str:
        """The digest of its manifest."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether its owners took it back."""


class Releases(Protocol):
    """Where releases are looked up."""

    def find(self, family: str, version: str, /) -> Release:
        """Return a release. Raises NotFound."""

    def manifest(self, digest: str, /) -> Manifest:
        """Return the manifest with this digest. Raises NotFound."""


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


class Fleet(Protocol):
    """Where devices are looked up; never one by one, for there may be a million."""

    def selector(self, cohort: str, /) -> Selector:
        """Return what a cohort stands for. Raises NotFound."""

    def count(self, selector: Selector, /) -> int:
        """Count the devices that a selector matches now."""

    def kinds(self, selector: Selector, /) -> Sequence[Kind]:
        """Return the same devices by what they offer."""


class Draft(NamedTuple):
    """A rollout that can start, the devices it is for, and how many there are now."""

    rollout: Rollout
    members: Selector
    devices: int


def draft(
    text: str | bytes,
    releases: Releases,
    fleet: Fleet,
    *,
    now: float,
    by: str,
    suffix: str,
) -> Draft:
    """Return what `text` would start at `now`, asked for by `by`; `suffix` makes its id unique.

    Raises RolloutInvalid.
    """
    spec = parse(text)
    try:
        release = releases.find(spec.family, spec.release)
        members = fleet.selector(spec.cohort)
    except NotFound as error:
        raise RolloutInvalid(error.message, hint=error.hint) from error
    if release.is_withdrawn:
        raise RolloutInvalid(f"release: the owners withdrew {release.path}")
    if not (count := fleet.count(members)):
        raise RolloutInvalid(f"cohort: no device belongs to {spec.cohort}")
    _check_fit(releases.manifest(release.digest), fleet.kinds(members))
    rollout_id = spec.id or _id(spec, suffix)
    rollout = Rollout(
        id=rollout_id,
        spec=msgspec.structs.replace(spec, id=rollout_id),
        release_path=release.path,
        standing=Standing(phase_state=PhaseState.PENDING, since=now),
        created=now,
        created_by=by,
    )
    return Draft(rollout, members, count)


def _check_fit(release: Manifest, kinds: Sequence[Kind]) -> None:
    """Refuse a release that some devices cannot run: they would fetch nothing, and fail."""
    unfit = [
        (kind, lacks)
        for kind in kinds
        if (lacks := capabilities.lacking(release.needs, kind.capabilities))
    ]
    if not unfit:
        return
    named = [f"{_named(kind)}: {'; '.join(lacks)}" for kind, lacks in unfit[:_UNFIT_NAMED_MAX]]
    if len(unfit) > _UNFIT_NAMED_MAX:
        named.append(f"and {_devices(unfit[_UNFIT_NAMED_MAX:])} more")
    raise RolloutInvalid(
        f"cohort: {_devices(unfit)} of {sum(kind.devices for kind in kinds)} devices cannot run "
        f"{release.family}/{release.version}. {'. '.join(named)}",
        hint="Choose a cohort without them, update their interpreter, or convert the model for it.",
    )


def _named(kind: Kind) -> str:
    return kind.example if kind.devices == 1 else f"{kind.example} and {kind.devices - 1} like it"


def _devices(unfit: Sequence[tuple[Kind, Sequence[str]]]) -> int:
    return sum(kind.devices for kind, _ in unfit)


def _id(spec: RolloutSpec, suffix: str) -> str:
    version = re.sub(r"[^a-z0-9]+", "-", spec.release.lower()).strip("-")
    return f"{spec.family}-{version[:_VERSION_CHARS_MAX].strip('-')}-{suffix}"
