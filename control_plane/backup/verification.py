"""Whether the parts of a restored control plane fit together, before it is placed.

The repository is verified as a new device verifies it, at the time of the backup: that the online
roles have expired since is normal, the first start signs them again.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from control_plane.backup import records
from control_plane.fleet.authority import ROOT, Authority
from control_plane.releases.chunk_files import ChunkFiles
from control_plane.releases.online_keys import OnlineKeys
from control_plane.releases.role_files import first_root, online_keyids
from control_plane.store.releases import Releases
from firmware_bundles import chunks, manifest
from firmware_bundles.errors import BackupInconsistent, MetadataExpired, ShoalError
from firmware_bundles.trust import publisher, roles, verifier

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.store.database import Database

_NEEDED: Final = (
    records.DATABASE,
    f"{records.AUTHORITY}/{ROOT}",
    *(f"{records.KEYS}/{role}.pem" for role in ("snapshot", "timestamp", "director")),
)


def check_present(folder: Path) -> None:
    """Raise BackupInconsistent unless all is there that would otherwise be made anew."""
    for name in _NEEDED:
        if not (folder / name).exists():
            raise BackupInconsistent(f"the backup lacks {name}")


def verify(folder: Path, database: Database, created: float) -> None:
    """Raise BackupInconsistent unless this folder would work as a control plane."""
    releases = Releases(database)
    try:
        Authority.load_or_create(folder / records.AUTHORITY, lambda: created)
        keys = OnlineKeys.load_or_create(folder / records.KEYS)
        if files := releases.files():
            _verify_repository(files, keys, created)
        _verify_chunks(releases, ChunkFiles(folder / records.CHUNKS))
    except BackupInconsistent:
        raise
    except ShoalError as error:
        raise BackupInconsistent(f"the backup does not fit together: {error.message}") from error


def _verify_repository(files: Mapping[str, bytes], keys: OnlineKeys, created: float) -> None:
    allowed = online_keyids(files)
    keys.snapshot.among(allowed["snapshot"])
    keys.timestamp.among(allowed["timestamp"])
    keys.director.among(allowed["director"])
    moments = [
        publisher.describe(data).expires - 1 for name, data in files.items() if _is_role(name)
    ]
    with tempfile.TemporaryDirectory() as scratch, suppress(MetadataExpired):
        verifier.refresh(Path(scratch), first_root(files), files, min(created, *moments))


def _is_role(name: str) -> bool:
    return name != roles.DIRECTOR_KEYS_PATH


def _verify_chunks(releases: Releases, files: ChunkFiles) -> None:
    for row in releases.list():
        if not row.is_withdrawn:
            for digest in (row.digest, *manifest.parse(row.manifest).chunks()):
                chunks.verify(digest, files.get(digest))
