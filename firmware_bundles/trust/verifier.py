"""The device's side of trust: collected bytes in, a verified view of the owners' repository out.

No network and no database: files were collected before, floors and generations come as arguments.
The TUF client workflow (specification 1.0, section 5) is python-tuf's; what it leaves to its user
stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote

import msgspec
from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Targets
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from firmware_bundles import durable, limits
from firmware_bundles.errors import (
    AssignmentExpired,
    AssignmentForeign,
    AssignmentReplayed,
    DigestMismatch,
    Malformed,
    MetadataExpired,
    MetadataMissing,
    ReleaseBelowFloor,
    ReleaseUnknown,
    ReleaseWithdrawn,
    ShoalError,
    TrustError,
)
from firmware_bundles.trust import envelopes, floors, keys, publisher, roles, times
from firmware_bundles.trust.refusals import translated
from firmware_bundles.trust.updater import GuardedUpdater
from firmware_bundles.wire.messages import Assignment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from firmware_bundles.trust.floors import Mark
    from firmware_bundles.trust.keys import Key
    from firmware_bundles.trust.roles import Floor, ReleaseFacts
    from firmware_bundles.wire.messages import ModelReference, Order

_ORIGIN: Final = "memory:///"
_DIRECTOR_KEYS_FILE: Final = "director-keys"
_TOP_ROLES: Final = ("root", "timestamp", "snapshot", "targets")
_CONFIG: Final = UpdaterConfig(
    root_max_length=limits.ROOT_BYTES_MAX,
    timestamp_max_length=limits.TIMESTAMP_BYTES_MAX,
    snapshot_max_length=limits.SNAPSHOT_BYTES_MAX,
    targets_max_length=limits.TARGETS_BYTES_MAX,
    prefix_targets_with_hash=False,
)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What the owners say now, verified.

    A family whose own role could not be verified does not harm the others: its error is kept in
    `faults` and raised to whoever asks for that family.
    """

    marks: Mapping[str, Mark]
    issued: float
    directors: tuple[Key, ...]
    releases: Mapping[str, Mapping[str, ReleaseFacts]]
    floors: Mapping[str, Floor]
    faults: Mapping[str, ShoalError]

    @property
    def versions(self) -> dict[str, int]:
        """The verified version of each role."""
        return {role: mark.version for role, mark in self.marks.items()}

    def release(self, path: str) -> ReleaseFacts:
        """Return a listed release.

        Raises ReleaseUnknown, or why its family's role cannot be trusted.
        """
        family = path.split("/", 1)[0]
        self._check_family(family)
        if found := self.releases[family].get(path):
            return found
        raise ReleaseUnknown(f"release {path!r:.140} is not listed by the owners of {family!r:.40}")

    def floor(self, family: str) -> Floor:
        """Return what the owners no longer allow.

        Raises ReleaseUnknown, or why the role cannot be trusted.
        """
        self._check_family(family)
        return self.floors[family]

    def _check_family(self, family: str) -> None:
        if fault := self.faults.get(family):
            raise fault
        if family not in self.releases:
            raise ReleaseUnknown(f"the owners delegate to no family {family!r:.40}")


def refresh(
    metadata_dir: Path,
    bootstrap_root: bytes,
    files: Mapping[str, bytes],
    now: float,
    known: Mapping[str, Mark] | None = None,
) -> Repository:
    """Run the TUF client workflow over collected `files`, named as in the repository.

    What is not in `files` counts as absent. `metadata_dir` is the trusted cache: it is read, and
    only verified files that are not below the floors in `known` are written to it. Expiry is judged
    by `now`, or by the newest time that the verified files prove, if that is later. Raises
    SignatureInvalid, RollbackAttempt, MetadataExpired, DigestMismatch, MetadataMissing, or
    TrustError for what cannot be read at all.
    """
    metadata_dir.mkdir(parents=True, exist_ok=True)
    known = known or {}
    with translated("the models repository"):
        updater = GuardedUpdater(
            metadata_dir,
            _ORIGIN,
            fetcher=_Collected(files),
            config=_CONFIG,
            bootstrap=bootstrap_root,
            known=known,
            note=lambda _: None,  # the caller keeps the marks, all at once
        )
        # python-tuf takes the clock of the machine; expiry must be judged by the time we trust.
        updater._trusted_set.reference_time = roles.time_of(now)  # noqa: SLF001
        updater.refresh()
        issued = _newest_issue(updater)
        _check_expiry(updater, max(now, issued))
        directors = _directors(updater, files, metadata_dir)
    repository = _load_families(updater, directors, issued)
    floors.check(known, repository.marks)
    return repository


def cached_files(metadata_dir: Path) -> dict[str, bytes]:
    """Return the trusted cache as files of a repository, to be verified again without a network."""
    found: dict[str, bytes] = {}
    for path in sorted(metadata_dir.glob("*.json")):
        data = path.read_bytes()
        if path.stem == "root" or not data:
            continue
        try:
            version = publisher.describe(data).version
        except TrustError:
            continue
        found[roles.file_name(unquote(path.stem), version)] = data
    directors = metadata_dir / _DIRECTOR_KEYS_FILE
    if directors.exists():
        found[roles.DIRECTOR_KEYS_PATH] = directors.read_bytes()
    return found


def admit(
    repository: Repository,
    envelope: bytes,
    *,
    device: str,
    generations: Mapping[str, int],
    nonce: str | None,
    now: float,
) -> Assignment:
    """Return an assignment for this device that the director signed and the owners allow.

    `generations` holds the newest generation known per family, `nonce` that of the hello still
    unanswered. Orders of a generation that is already known are left out; an older one is a replay.
    Raises SignatureInvalid, AssignmentForeign, AssignmentExpired, AssignmentReplayed,
    DigestMismatch, ReleaseUnknown, ReleaseBelowFloor, ReleaseWithdrawn, Malformed, MessageTooLarge,
    VersionUnsupported.
    """
    assignment = envelopes.open_envelope(Assignment, envelope, repository.directors)
    if assignment.device != device:
        raise AssignmentForeign(f"an assignment for {assignment.device} came to {device}")
    _check_times(assignment, now)
    if assignment.nonce is not None and assignment.nonce != nonce:
        raise AssignmentReplayed("an assignment answers a hello that this device did not say last")
    fresh = [order for order in assignment.orders if _is_fresh(order, generations)]
    for order in fresh:
        if order.generation > assignment.issued + limits.GENERATION_AHEAD_S_MAX:
            raise Malformed(f"generation {order.generation} leaves no room for a newer one")
        _check_order(repository, order)
    return msgspec.structs.replace(assignment, orders=tuple(fresh))


class _Collected(FetcherInterface):
    """Serves files that were collected before; what was not collected is a 404."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = unquote(url.removeprefix(_ORIGIN))
        if name not in self._files:
            raise tuf_errors.DownloadHTTPError(f"{name} was not collected", 404)
        return iter((self._files[name],))


def _newest_issue(updater: Updater) -> float:
    """Return the latest time at which a verified top-level role says that it was signed."""
    trusted = updater._trusted_set  # noqa: SLF001
    return max(roles.issued_at(trusted[role]) for role in _TOP_ROLES)


def _check_expiry(updater: Updater, now: float) -> None:
    """Judge again by what the files themselves prove: a clock at 1970 sees no expiry."""
    for role in _TOP_ROLES:
        if updater._trusted_set[role].is_expired(roles.time_of(now)):  # noqa: SLF001
            raise MetadataExpired(f"role {role} had expired when others of its set were signed")


def _directors(updater: Updater, files: Mapping[str, bytes], metadata_dir: Path) -> tuple[Key, ...]:
    target = updater.get_targetinfo(roles.DIRECTOR_KEYS_PATH)
    if target is None:
        raise TrustError(f"the owners list no {roles.DIRECTOR_KEYS_PATH}: nobody may direct")
    data = files.get(roles.DIRECTOR_KEYS_PATH)
    if data is None:
        raise MetadataMissing(f"{roles.DIRECTOR_KEYS_PATH} was not collected")
    target.verify_length_and_hashes(data)
    kept = metadata_dir / _DIRECTOR_KEYS_FILE
    if not kept.exists() or kept.read_bytes() != data:
        durable.write(kept, data)
    return tuple(keys.parse_public_list(data))


def _load_families(
    updater: GuardedUpdater, directors: tuple[Key, ...], issued: float
) -> Repository:
    trusted = updater._trusted_set  # noqa: SLF001 - python-tuf has no public call that lists a role's targets
    targets = cast("Targets", trusted["targets"])
    releases: dict[str, Mapping[str, ReleaseFacts]] = {}
    allowed: dict[str, Floor] = {}
    faults: dict[str, ShoalError] = {}
    for family in roles.families_of(targets):
        try:
            role = _load_family(updater, family)
            releases[family] = {
                path: roles.release_facts(target) for path, target in role.targets.items()
            }
            allowed[family] = roles.terms_of(role)
        except ShoalError as error:
            faults[family] = error
    return Repository(
        marks=updater.marks(),
        issued=issued,
        directors=directors,
        releases=releases,
        floors=allowed,
        faults=faults,
    )


def _load_family(updater: Updater, family: str) -> Targets:
    """Load one delegated role. Only its own family's paths count, whatever else it may list."""
    with translated(f"role {family!r:.40}"):
        updater.get_targetinfo(f"{family}/0/manifest.json")
    role = updater._trusted_set.get(family)  # noqa: SLF001 - as above
    if not isinstance(role, Targets):
        raise TrustError(f"the owners' delegation to {family!r:.40} does not cover its own paths")
    if foreign := sorted(path for path in role.targets if path.split("/", 1)[0] != family):
        raise TrustError(f"role {family!r:.40} lists paths of others: {foreign[0]!r:.140}")
    return role


def moment(envelope: bytes, *, device: str, nonce: str | None, own: float, floor: float) -> float:
    """Return the time by which this envelope, and the repository for it, is to be judged.

    The envelope is not verified yet: whoever forges it can have it refused, nothing more, for only
    a director's signature makes it count, and the repository must be good at that time as well.
    """
    claimed = envelopes.peek(Assignment, envelope)
    is_answer = (
        claimed is not None
        and nonce is not None
        and (claimed.device, claimed.nonce) == (device, nonce)
    )
    vouched = claimed.issued if claimed is not None and is_answer else None
    return times.judge(own=own, floor=floor, vouched=vouched)


def _check_times(assignment: Assignment, now: float) -> None:
    if assignment.issued > now + limits.CLOCK_SKEW_S_MAX:
        raise AssignmentExpired(
            "the assignment was issued in the future; one of two clocks is wrong"
        )
    if now > assignment.expires or assignment.expires - assignment.issued > (
        limits.ASSIGNMENT_LIFE_S + limits.CLOCK_SKEW_S_MAX
    ):
        raise AssignmentExpired(
            f"the assignment issued at {assignment.issued:.0f} was good until "
            f"{assignment.expires:.0f}; now it is {now:.0f}"
        )


def _is_fresh(order: Order, generations: Mapping[str, int]) -> bool:
    known = generations.get(order.family, 0)
    if order.generation < known:
        raise AssignmentReplayed(
            f"an assignment brings generation {order.generation} of {order.family}; "
            f"this device has seen {known}"
        )
    return order.generation > known


def _check_order(repository: Repository, order: Order) -> None:
    check_model(repository, order.family, order.model)


def check_model(repository: Repository, family: str, model: ModelReference) -> None:
    """Hold a model against what its owners signed and still allow.

    Raises ReleaseUnknown, DigestMismatch, ReleaseBelowFloor, ReleaseWithdrawn.
    """
    release = repository.release(model.path)
    floor = repository.floor(family)
    if release.path.split("/", 1)[0] != family:
        raise ReleaseUnknown(f"an order for {family} names the release {release.path}")
    if (release.digest, release.length) != (model.digest, model.length):
        raise DigestMismatch(
            f"an order names {model.digest[:12]} for {release.path}; "
            f"the owners signed {release.digest[:12]}"
        )
    if release.number < floor.min_release:
        raise ReleaseBelowFloor(
            f"release {release.path} has number {release.number}; "
            f"its owners allow {floor.min_release} and newer"
        )
    if release.path in floor.withdrawn:
        raise ReleaseWithdrawn(f"release {release.path} was withdrawn by its owners")
