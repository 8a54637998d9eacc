"""What owners change in their repository: each step follows the present one, and none goes back.

Pure: files in, files out. Signatures are checked afterwards, as a device does, in `repository`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from control_plane.releases.role_files import name_of, role_file, version_of
from firmware_bundles.errors import ConflictError, NotFound, RollbackAttempt, TrustError
from firmware_bundles.trust import publisher, roles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from firmware_bundles.trust.roles import ReleaseFacts


class Change(NamedTuple):
    """What the owners signed anew, all of it to be taken at once."""

    root: bytes | None = None
    targets: bytes | None = None
    director_keys: bytes | None = None
    families: Mapping[str, bytes] = {}


def changed(present: Mapping[str, bytes], change: Change) -> dict[str, bytes]:
    """Return the owners' files after a change, with every former root kept."""
    files = dict(present)
    if change.root is not None:
        check_successor(role_file(present, "root"), change.root)
        files[name_of("root", change.root)] = change.root
    if change.targets is not None:
        _replace(files, "targets", change.targets)
    if change.director_keys is not None:
        files[roles.DIRECTOR_KEYS_PATH] = change.director_keys
    families = publisher.families_in(role_file(files, "targets"))
    for family, role in change.families.items():
        if family not in families:
            raise NotFound(f"the owners delegate to no family {family!r:.40}")
        if version_of(files, family) == 0:
            files[name_of(family, role)] = role
            continue
        former = role_file(files, family)
        _replace(files, family, role)
        check_terms(former, role)
        if publisher.releases_in(former) != publisher.releases_in(role):
            raise RollbackAttempt(
                f"the role of {family} changes its releases",
                hint="Publish a release by itself; withdraw one instead of removing it.",
            )
    return files


def _replace(files: dict[str, bytes], role: str, data: bytes) -> None:
    former = role_file(files, role)
    check_successor(former, data)
    del files[name_of(role, former)]
    files[name_of(role, data)] = data


def check_terms(former: bytes, role: bytes) -> None:
    """Raise RollbackAttempt if the owners would allow again what they no longer allowed."""
    before, after = publisher.floor_in(former), publisher.floor_in(role)
    if after.min_release < before.min_release or set(before.withdrawn) - set(after.withdrawn):
        raise RollbackAttempt("the role allows again what its owners no longer allowed")


def check_successor(present: bytes, role: bytes) -> None:
    """Raise ConflictError or TrustError unless `role` is the next version of `present`."""
    expected = publisher.describe(present).version + 1
    found = publisher.describe(role).version
    if found < expected:
        raise ConflictError(
            f"the role has version {found}; {expected} is next: somebody published meanwhile",
            hint="Sign the release again: shoal release sign.",
        )
    if found > expected:
        raise TrustError(f"the role has version {found}; {expected} is next")


def check_difference(
    present: Mapping[str, ReleaseFacts], role: Mapping[str, ReleaseFacts], added: ReleaseFacts
) -> None:
    """Raise unless `role` lists what `present` does, and `added` under a new number."""
    if added.path in present:
        raise ConflictError(f"release {added.path} exists already")
    if dict(role) != {**present, added.path: added}:
        raise RollbackAttempt(
            f"the role changes more than to add {added.path}",
            hint="Releases stay listed; withdraw one instead of removing it.",
        )
    if any(other.number >= added.number for other in present.values()):
        raise RollbackAttempt(f"release {added.path} has number {added.number}, which is not new")
