"""The models repository that devices trust: how it begins, grows by a release, and stays fresh.

What would become visible is first verified exactly as a device will verify it; only then are
files and release written, in one transaction. A refused publish leaves nothing behind but chunks
that nobody names.
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from control_plane.audit import SERVICE, Statement
from control_plane.releases.changes import (
    Change,
    changed,
    check_difference,
    check_successor,
    check_terms,
)
from control_plane.releases.role_files import (
    all_roots,
    first_root,
    listed_roles,
    name_of,
    next_version,
    online_keyids,
    pop_version,
    role_file,
)
from control_plane.store.releases import ReleaseRow
from firmware_bundles import chunks, limits, manifest
from firmware_bundles.errors import (
    ChunkMissing,
    ConflictError,
    DigestMismatch,
    MetadataExpired,
    NotFound,
)
from firmware_bundles.identifiers import target_path
from firmware_bundles.trust import publisher, roles, verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from control_plane.releases.chunk_files import ChunkFiles
    from control_plane.releases.online_keys import OnlineKeys
    from control_plane.store.releases import Releases
    from firmware_bundles.manifest import Manifest
    from firmware_bundles.trust.floors import Mark
    from firmware_bundles.trust.roles import Floor, ReleaseFacts
    from firmware_bundles.trust.verifier import Repository as View

# Online roles are signed again when this share of their life is left.
_RENEWAL_SHARE: Final = 0.5


class Bootstrap(NamedTuple):
    """What the owners lay as the beginning of trust; `families` holds a role for each family."""

    root: bytes
    targets: bytes
    director_keys: bytes
    families: Mapping[str, bytes]


class ModelsRepository:
    """The owners' repository as the control plane keeps it. Safe to use from several threads."""

    def __init__(
        self,
        releases: Releases,
        chunk_files: ChunkFiles,
        online_keys: OnlineKeys,
        clock: Callable[[], float],
    ) -> None:
        self._releases = releases
        self._chunks = chunk_files
        self._keys = online_keys
        self._clock = clock
        self._change = threading.Lock()

    def files(self) -> dict[str, bytes]:
        """Return the repository by file name; empty before its beginning."""
        return self._releases.files()

    def root(self) -> bytes:
        """Return the newest root, which a device is enrolled with. Raises NotFound."""
        return role_file(self._files(), "root")

    def roots(self) -> list[bytes]:
        """Return all roots, the newest last. Raises NotFound before there is one."""
        return all_roots(self._files())

    def family_role(self, family: str) -> bytes:
        """Return a family's present role, for its owners to extend. Raises NotFound."""
        files = self._files()
        if family not in publisher.families_in(role_file(files, "targets")):
            raise NotFound(f"the owners delegate to no family {family!r:.40}")
        return role_file(files, family)

    def targets_role(self) -> bytes:
        """Return the present list of families, for its owners to change. Raises NotFound."""
        return role_file(self._files(), "targets")

    def director_keys(self) -> bytes:
        """Return who may direct devices. Raises NotFound."""
        return self._files()[roles.DIRECTOR_KEYS_PATH]

    def begin(self, bootstrap: Bootstrap, by: str = SERVICE) -> None:
        """Take the beginning of trust. Raises ConflictError if there is one, TrustError."""
        now = self._clock()
        with self._change:
            if self._releases.files():
                raise ConflictError(
                    "this control plane has a root of trust already",
                    hint="Use the keys it began with; a new root must be signed by them.",
                )
            files = {
                name_of("root", bootstrap.root): bootstrap.root,
                name_of("targets", bootstrap.targets): bootstrap.targets,
                roles.DIRECTOR_KEYS_PATH: bootstrap.director_keys,
            }
            files |= {name_of(family, data): data for family, data in bootstrap.families.items()}
            files = self._sealed(files, now)
            view = _verify(files, now)
            _raise_faults(view)
            self._keys.director.among({key.keyid for key in view.directors})
            told = Statement(now, by, "trust.begun", "trust/root", _digests(bootstrap._asdict()))
            self._releases.replace(files, now, told=told)

    def advance(self, change: Change, by: str = SERVICE) -> None:
        """Take the next version of roles that their owners signed: all of them, or none.

        Each must follow its present version by one. What comes out is verified as a device will
        that knows the present repository, and as a new one will. A family that is no longer
        delegated to loses its releases. Raises ConflictError, TrustError and its children.
        """
        now = self._clock()
        with self._change:
            present = self._files()
            files = changed(present, change)
            families = publisher.families_in(role_file(files, "targets"))
            revoked = set(publisher.families_in(role_file(present, "targets"))) - set(families)
            files = self._sealed(files, now)
            view = _verify(files, now, present)
            _raise_faults(view)
            self._keys.director.among({key.keyid for key in view.directors})
            gone = [path for each in families for path in self._gone(each, view.floor(each))]
            gone += [row.path for family in revoked for row in self._releases.list(family)]
            said = _digests(change._asdict()) | {"withdrawn": sorted(gone)}
            told = Statement(now, by, "trust.changed", "trust/roles", said)
            self._releases.replace(files, now, withdrawn=gone, told=told)
            self._settle(files)

    def accept(self, role: bytes, manifest_bytes: bytes, by: str = SERVICE) -> ReleaseRow:
        """Take one more release of a family.

        `role` must follow the family's present role by one version, and differ from it by exactly
        this manifest (and the floor). A release that was accepted before is answered again. Raises
        ConflictError, TrustError and its children, ManifestInvalid, ChunkMissing; nothing is
        visible then.
        """
        document = manifest.parse(manifest_bytes)
        path = target_path(document.family, document.version)
        now = self._clock()
        with self._change:
            files = self._files()
            present = self.family_role(document.family)
            known = self._releases.get(path)
            if known is not None and (known.manifest, present) == (manifest_bytes, role):
                return known
            check_successor(present, role)
            next_files = dict(files)
            del next_files[name_of(document.family, present)]
            next_files[name_of(document.family, role)] = role
            next_files = self._sealed(next_files, now)
            view = _verify(next_files, now, files)
            facts = view.release(path)
            check_terms(present, role)
            check_difference(publisher.releases_in(present), publisher.releases_in(role), facts)
            _check_manifest(facts, manifest_bytes)
            self._check_chunks(document)
            self._chunks.put(facts.digest, manifest_bytes)
            row = _row(document, facts, manifest_bytes, now)
            withdrawn = self._gone(document.family, view.floor(document.family))
            said = {"digest": row.digest, "number": row.number, "withdrawn": sorted(withdrawn)}
            told = Statement(now, by, "release.published", f"release/{row.path}", said)
            self._releases.replace(next_files, now, added=row, withdrawn=withdrawn, told=told)
        return row

    def refresh_if_due(self, now: float) -> bool:
        """Sign snapshot and timestamp again if half of a life is over; True if it was done."""
        with self._change:
            files = self._releases.files()
            if files:
                self._settle(files)
            if not files or not any(
                _is_due(role_file(files, role), role, now) for role in ("snapshot", "timestamp")
            ):
                return False
            self._releases.replace(self._sealed(files, now), now)
        return True

    def seal(self) -> None:
        """Sign snapshot and timestamp again, if there is a repository: at each start.

        What was restored from a backup is thereby newer than what devices have seen. Raises
        SignatureInvalid.
        """
        now = self._clock()
        with self._change:
            if files := self._releases.files():
                self._settle(files)
                self._releases.replace(self._sealed(files, now), now)

    def _gone(self, family: str, floor: Floor) -> list[str]:
        """Return the releases that the owners no longer allow: withdrawn, or below the floor."""
        rows = self._releases.list(family)
        below = {row.path for row in rows if row.number < floor.min_release}
        return sorted({*floor.withdrawn, *below})

    def _files(self) -> dict[str, bytes]:
        files = self._releases.files()
        if not files:
            raise NotFound(
                "this control plane has no root of trust yet", hint="Lay it: shoal keys init."
            )
        return files

    def _sealed(self, files: Mapping[str, bytes], now: float) -> dict[str, bytes]:
        """Return the files under a new snapshot and timestamp."""
        kept = dict(files)
        versions = {
            role: next_version(pop_version(kept, role), now) for role in ("snapshot", "timestamp")
        }
        allowed = online_keyids(kept)
        snapshot = publisher.create_snapshot(
            self._keys.snapshot.among(allowed["snapshot"]),
            version=versions["snapshot"],
            files={role: role_file(kept, role) for role in listed_roles(kept)},
            now=now,
        )
        kept[name_of("snapshot", snapshot)] = snapshot
        kept[roles.TIMESTAMP_FILE] = publisher.create_timestamp(
            self._keys.timestamp.among(allowed["timestamp"]),
            version=versions["timestamp"],
            snapshot=snapshot,
            now=now,
        )
        if len(kept) > limits.REPOSITORY_FILES_MAX:
            raise ConflictError(f"the repository would have {len(kept)} files, too many")
        size = sum(map(len, kept.values()))
        if size > limits.REPOSITORY_BYTES_MAX:
            raise ConflictError(
                f"the repository would have {size} bytes; devices take at most "
                f"{limits.REPOSITORY_BYTES_MAX}"
            )
        return kept

    def _settle(self, files: Mapping[str, bytes]) -> None:
        """Let the successors of online keys take over where these files name them."""
        allowed = online_keyids(files)
        self._keys.snapshot.settle(allowed["snapshot"])
        self._keys.timestamp.settle(allowed["timestamp"])
        self._keys.director.settle(allowed["director"])

    def _check_chunks(self, document: Manifest) -> None:
        if missing := self._chunks.missing(document.chunks()):
            raise ChunkMissing(
                f"{len(missing)} chunks of {document.family} {document.version} were not uploaded, "
                f"the first is {missing[0][:12]}",
                hint="Upload them first: shoal release publish does.",
            )
        for entry in document.files:
            data = chunks.join(entry.digest, map(self._chunks.get, entry.chunks))
            if len(data) != entry.length:
                raise DigestMismatch(f"file {entry.name} is not {entry.length} bytes long")


def _verify(
    files: Mapping[str, bytes], now: float, present: Mapping[str, bytes] | None = None
) -> View:
    """Return what a new device makes of these files, after one that knows `present` took them."""
    anchor = first_root(files)
    if present is not None:
        with tempfile.TemporaryDirectory() as scratch:
            cache = Path(scratch)
            known: Mapping[str, Mark] = {}
            with suppress(MetadataExpired):  # then no device knows it any more
                known = verifier.refresh(cache, anchor, present, now).marks
            verifier.refresh(cache, anchor, files, now, known)
    with tempfile.TemporaryDirectory() as scratch:
        return verifier.refresh(Path(scratch), anchor, files, now)


def _raise_faults(view: View) -> None:
    for fault in view.faults.values():
        raise fault


def _check_manifest(facts: ReleaseFacts, data: bytes) -> None:
    if (facts.digest, facts.length) != (chunks.digest_of(data), len(data)):
        raise DigestMismatch(f"the manifest is not the one that the owners signed as {facts.path}")


def _row(document: Manifest, facts: ReleaseFacts, data: bytes, now: float) -> ReleaseRow:
    return ReleaseRow(
        path=facts.path,
        family=document.family,
        version=document.version,
        number=facts.number,
        digest=facts.digest,
        length=facts.length,
        manifest=data,
        is_withdrawn=False,
        published=now,
    )


def _digests(signed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what owners signed by name, each as the digest of its bytes."""
    found: dict[str, Any] = {}
    for name, data in signed.items():
        if isinstance(data, bytes):
            found[name] = chunks.digest_of(data)
        elif data:
            found[name] = _digests(data)
    return found


def _is_due(data: bytes, role: str, now: float) -> bool:
    return publisher.describe(data).expires - now < _RENEWAL_SHARE * roles.LIFE_S[role]
