"""The two places A and B of each model family on disk, and the pointer that says which one serves.

The pointer and the files are the truth about what serves: core and worker read both here. What
goes into a slot, and when the pointer moves, is decided by the updater.

    <root>/<family>/{A,B}/{manifest.json, files...}
    <root>/<family>/serving                             the pointer: "A" or "B" and a line feed
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles import durable
from firmware_bundles.errors import (
    BundleError,
    Malformed,
    SlotBroken,
    SlotUnwritable,
    StorageFull,
    VersionUnsupported,
)
from firmware_bundles.identifiers import Family, parse
from firmware_bundles.limits import MANIFEST_BYTES_MAX
from firmware_bundles.manifest import MANIFEST_NAME, Manifest
from firmware_bundles.manifest import parse as parse_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from firmware_bundles.manifest import FileEntry

NAMES: Final = ("A", "B")
POINTER_NAME: Final = "serving"
_POINTER_BYTES_MAX: Final = 8
_READ_BYTES: Final = 1024 * 1024


class Slot(NamedTuple):
    """One of the two places of a family; it may be empty or broken."""

    family: str
    name: str
    directory: Path


def families(root: Path) -> list[str]:
    """Return the families that have a folder under `root`, sorted; other folders are skipped."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except FileNotFoundError:
        return []
    return [name for name in names if _is_family(name)]


def slot(root: Path, family: str, name: str) -> Slot:
    """Return the slot called `name` ("A" or "B") of a family."""
    if name not in NAMES:
        raise ValueError(f"a slot is called A or B, not {name!r}")
    return Slot(family, name, root / parse(Family, family, "family") / name)


def serving(root: Path, family: str) -> Slot | None:
    """Return the slot that the pointer names, or None if there is no readable pointer."""
    try:
        with (root / family / POINTER_NAME).open("rb") as file:
            name = file.read(_POINTER_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError:
        return None
    return slot(root, family, name) if name in NAMES else None


def other(root: Path, family: str) -> Slot:
    """Return the slot that does not serve: the one to stage into. A, if none serves."""
    current = serving(root, family)
    return slot(root, family, "B" if current is not None and current.name == "A" else "A")


def read(slot: Slot) -> Manifest:
    """Return the manifest of a slot, after checking its family and that every file is whole.

    Raises SlotBroken, which says what is missing or wrong.
    """
    try:
        manifest = parse_manifest(_manifest_bytes(slot))
    except (BundleError, VersionUnsupported) as error:
        raise SlotBroken(f"slot {slot.family}/{slot.name}: {error.message}") from error
    if manifest.family != slot.family:
        raise SlotBroken(f"slot {slot.family}/{slot.name} holds a model of {manifest.family}")
    for entry in manifest.files:
        _check_file(slot, entry.name, entry.length, entry.digest)
    return manifest


def listed(slot: Slot) -> tuple[FileEntry, ...]:
    """Return the files that the slot's manifest lists, unchecked; none if there is no manifest."""
    try:
        return parse_manifest(_manifest_bytes(slot)).files
    except (SlotBroken, BundleError, VersionUnsupported):
        return ()


def manifest_digest(slot: Slot) -> str:
    """Return the SHA-256 of the slot's manifest as it lies on disk. Raises SlotBroken."""
    return hashlib.sha256(_manifest_bytes(slot)).hexdigest()


def holds(slot: Slot, digest: str) -> bool:
    """Return whether the slot holds, whole, the bundle whose manifest has this digest."""
    try:
        return manifest_digest(slot) == digest and is_whole(slot)
    except SlotBroken:
        return False


def is_whole(slot: Slot) -> bool:
    """Return whether the slot holds a whole bundle, whichever."""
    try:
        read(slot)
    except SlotBroken:
        return False
    return True


def switch(root: Path, slot: Slot) -> None:
    """Let the pointer name `slot`: atomic, and on disk when this returns.

    Raises SlotUnwritable or StorageFull.
    """
    try:
        durable.write(root / slot.family / POINTER_NAME, f"{slot.name}\n".encode())
    except OSError as error:
        raise unwritable(f"pointer of {slot.family}", error) from error


def unset(root: Path, family: str) -> None:
    """Take the pointer away: no model of this family serves. Raises SlotUnwritable."""
    try:
        (root / family / POINTER_NAME).unlink(missing_ok=True)
        if (root / family).is_dir():
            durable.sync_directory(root / family)
    except OSError as error:
        raise unwritable(f"pointer of {family}", error) from error


def stage(slot: Slot, manifest: bytes, files: Iterable[tuple[str, bytes]]) -> None:
    """Fill a slot with a bundle.

    The old manifest goes first and the new one comes last, so that a slot that was interrupted in
    between holds no manifest and is never taken for whole. Raises SlotUnwritable or StorageFull.
    """
    try:
        clear(slot)
        durable.make_directory(slot.directory)
        for name, data in files:
            durable.write(slot.directory / name, data)
        durable.write(slot.directory / MANIFEST_NAME, manifest)
    except OSError as error:
        raise unwritable(f"slot {slot.family}/{slot.name}", error) from error


def clear(slot: Slot) -> None:
    """Remove what the slot holds, its manifest first. Raises OSError."""
    if not slot.directory.is_dir():
        return
    (slot.directory / MANIFEST_NAME).unlink(missing_ok=True)
    durable.sync_directory(slot.directory)
    shutil.rmtree(slot.directory)
    durable.sync_directory(slot.directory.parent)


def unwritable(what: str, error: OSError) -> SlotUnwritable | StorageFull:
    """Return the refusal that a failed write of `what` means."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(
            f"no space left for {what}", hint="Free space in the agent's state directory."
        )
    return SlotUnwritable(
        f"{what} cannot be written: {error.strerror}",
        hint="Check the owner and modes of the agent's state directory, and the disk.",
    )


def _is_family(name: str) -> bool:
    try:
        parse(Family, name, "family")
    except Malformed:
        return False
    return True


def _manifest_bytes(slot: Slot) -> bytes:
    try:
        with (slot.directory / MANIFEST_NAME).open("rb") as file:
            data = file.read(MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise SlotBroken(
            f"slot {slot.family}/{slot.name} has no readable manifest: {error.strerror}"
        ) from error
    return data


def _check_file(slot: Slot, name: str, length: int, digest: str) -> None:
    hashed = hashlib.sha256()
    size = 0
    try:
        with (slot.directory / name).open("rb") as file:
            while size <= length and (piece := file.read(_READ_BYTES)):
                size += len(piece)
                hashed.update(piece)
    except OSError as error:
        raise SlotBroken(
            f"slot {slot.family}/{slot.name}: file {name} cannot be read: {error.strerror}"
        ) from error
    if size != length or hashed.hexdigest() != digest:
        raise SlotBroken(
            f"slot {slot.family}/{slot.name}: file {name} is not the one that the manifest lists"
        )
