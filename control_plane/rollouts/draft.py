"""From a rollout file to a rollout that can start: the release and the devices that it means.

Nothing is stored here; `shoal rollout start --dry-run` shows what would be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from control_plane.rollouts.model import PhaseState, Rollout, Standing
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import NotFound, RolloutInvalid

_VERSION_CHARS_MAX: Final = 20


class Release(Protocol):
    """What has to be known of a release."""

    @property
    def path(self) -> str:
        """The owners' path of its manifest."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether its owners took it back."""


FindRelease = Callable[[str, str], Release]
FindMembers = Callable[[str], Sequence[str]]


class Draft(NamedTuple):
    """A rollout that can start, and the devices it is for."""

    rollout: Rollout
    members: tuple[str, ...]


def draft(
    text: str | bytes,
    find_release: FindRelease,
    find_members: FindMembers,
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
        release = find_release(spec.family, spec.release)
        members = tuple(sorted(find_members(spec.cohort)))
    except NotFound as error:
        raise RolloutInvalid(error.message, hint=error.hint) from error
    if release.is_withdrawn:
        raise RolloutInvalid(f"release: the owners withdrew {release.path}")
    if not members:
        raise RolloutInvalid(f"cohort: no device belongs to {spec.cohort}")
    rollout_id = spec.id or _id(spec, suffix)
    rollout = Rollout(
        id=rollout_id,
        spec=msgspec.structs.replace(spec, id=rollout_id),
        release_path=release.path,
        standing=Standing(phase_state=PhaseState.PENDING, since=now),
        created=now,
        created_by=by,
    )
    return Draft(rollout, members)


def _id(spec: RolloutSpec, suffix: str) -> str:
    version = re.sub(r"[^a-z0-9]+", "-", spec.release.lower()).strip("-")
    return f"{spec.family}-{version[:_VERSION_CHARS_MAX].strip('-')}-{suffix}"
