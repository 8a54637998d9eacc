"""From a rollout file to a rollout that can start: the release and the devices that it means.

Nothing is stored here; `shoal rollout start --dry-run` shows what would be.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Protocol

import msgspec

from control_plane.rollouts import checks
from control_plane.rollouts.model import PhaseState, Rollout, Standing
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.selection import Chosen, Fleet, choose
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import NotFound, RolloutInvalid, SelectorInvalid, ShoalError
from firmware_bundles.manifest import Manifest
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.codec import parse_baseline
from firmware_bundles.sketches.watch import rows_until_sure, seconds_until_sure

_VERSION_CHARS_MAX: Final = 20
_REASONS_TOLD_MAX: Final = 3


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

    def file(self, digest: str, name: str, /) -> bytes:
        """Return a file of that bundle. Raises NotFound, ChunkMissing, DigestMismatch."""


class Draft(NamedTuple):
    """A rollout that can start, the devices it is for, what each fetches, and what is doubtful."""

    rollout: Rollout
    chosen: Chosen
    model_bytes: int
    notes: tuple[checks.Note, ...] = ()


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
        if release.is_withdrawn:
            raise RolloutInvalid(f"release: the owners withdrew {release.path}")
        manifest = releases.manifest(release.digest)
        chosen = choose(spec, manifest.needs, fleet)
    except (NotFound, SelectorInvalid) as error:
        raise RolloutInvalid(error.message, hint=error.hint) from error
    _check_any(spec, chosen)
    rollout_id = spec.id or _id(spec, suffix)
    rollout = Rollout(
        id=rollout_id,
        spec=msgspec.structs.replace(spec, id=rollout_id),
        release_path=release.path,
        standing=Standing(phase_state=PhaseState.PENDING, since=now),
        created=now,
        created_by=by,
    )
    baseline = _baseline(releases, release.digest, manifest)
    facts = checks.Fleet(
        members=chosen.devices,
        model_bytes=sum(entry.length for entry in manifest.files),
        unknown=chosen.unknown,
        served=fleet.serving(chosen.members, spec.family),
        watched_rows=0 if baseline is None else rows_until_sure(baseline),
        watched_s=0.0 if baseline is None else seconds_until_sure(baseline),
    )
    return Draft(rollout, chosen, facts.model_bytes, checks.check(rollout.spec, facts))


def _baseline(releases: Releases, digest: str, manifest: Manifest) -> Baseline | None:
    """Return the baseline of a release; what cannot be read is no reason to start nothing."""
    if manifest.baseline is None:
        return None
    try:
        return parse_baseline(releases.file(digest, manifest.baseline))
    except ShoalError:
        return None


def _check_any(spec: RolloutSpec, chosen: Chosen) -> None:
    """Refuse a rollout for nobody."""
    if chosen.devices:
        return
    if not chosen.left_out:
        raise RolloutInvalid(f"cohort: no device belongs to {spec.cohort}")
    told = ". ".join(str(each) for each in chosen.left_out[:_REASONS_TOLD_MAX])
    raise RolloutInvalid(
        f"cohort: of {spec.cohort} no device is left for {spec.family}/{spec.release}: {told}",
        hint="Choose another cohort, update the devices' interpreter, or convert the model for it.",
    )


def _id(spec: RolloutSpec, suffix: str) -> str:
    version = re.sub(r"[^a-z0-9]+", "-", spec.release.lower()).strip("-")
    return f"{spec.family}-{version[:_VERSION_CHARS_MAX].strip('-')}-{suffix}"
