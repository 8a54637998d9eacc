"""The two places A and B of each model family on disk, and the pointer that says which one serves.

The pointer and the files are the truth about what serves: core and worker read both here. What
goes into a slot, and when the pointer moves, is decided by the updater.

    <root>/<family>/{A,B}/{seal, manifest.json, files...}
    <root>/<family>/serving                             the pointer: "A" or "B" and a line feed
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.deployment import seals
from agent.deployment.seals import Mark, Seal
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
    from collections.abc import Callable, Iterable

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
    """Return the slot that the pointer names; where it names none, the last that proved itself.

    None if there is no such slot, either: nothing of this family was ever kept.
    """
    name = _pointer(root, family)
    if name is not None:
        return slot(root, family, name)
    good = [each for each in (slot(root, family, name) for name in NAMES) if is_good(each)]
    return max(good, key=_filled_at, default=None)


def has_pointer(root: Path, family: str) -> bool:
    """Return whether the pointer can be read."""
    return _pointer(root, family) is not None


def other(root: Path, family: str) -> Slot:
    """Return the slot that does not serve: the one to stage into. A, if none serves."""
    current = serving(root, family)
    return slot(root, family, "B" if current is not None and current.name == "A" else "A")


def read(slot: Slot) -> Manifest:
    """Return the manifest of a slot, after checking its seal, its family and that it is whole.

    Raises SlotBroken, which says what is missing or wrong.
    """
    data = _manifest_bytes(slot)
    seal = seals.read(slot.directory)
    if seal is not None and hashlib.sha256(data).hexdigest() != seal.digest:
        raise SlotBroken(f"slot {slot.family}/{slot.name}: the manifest is not the sealed one")
    try:
        manifest = parse_manifest(data)
    except (BundleError, VersionUnsupported) as error:
        raise SlotBroken(f"slot {slot.family}/{slot.name}: {error.message}") from error
    if manifest.family != slot.family:
        raise SlotBroken(f"slot {slot.family}/{slot.name} holds a model of {manifest.family}")
    for entry in manifest.files:
        _check_file(slot, entry.name, entry.length, entry.digest)
    return manifest


def is_good(slot: Slot) -> bool:
    """Return whether the slot holds a model that proved itself: one may fall back to it."""
    try:
        seal = seals.read(slot.directory)
    except SlotBroken:
        return False
    if seal is None:  # an agent without seals filled it
        return (slot.directory / MANIFEST_NAME).is_file()
    return seal.mark is Mark.GOOD


def mark_of(slot: Slot) -> Mark:
    """Return the mark on a slot that holds something. Raises SlotBroken."""
    seal = seals.read(slot.directory)
    return Mark.GOOD if seal is None else seal.mark


def mark(slot: Slot, mark: Mark) -> None:
    """Mark what the slot holds, which stays the manifest it was sealed with. Durable, repeatable.

    Raises SlotBroken where it holds nothing, SlotUnwritable or StorageFull.
    """
    seal = seals.read(slot.directory)
    digest = seal.digest if seal else manifest_digest(slot)
    try:
        seals.write(slot.directory, Seal(digest, mark))
    except OSError as error:
        raise unwritable(f"slot {slot.family}/{slot.name}", error) from error


def manifest_digest(slot: Slot) -> str:
    """Return the SHA-256 of the slot's manifest as it lies on disk. Raises SlotBroken."""
    return hashlib.sha256(_manifest_bytes(slot)).hexdigest()


def manifest_length(slot: Slot) -> int:
    """Return the bytes of the slot's manifest. Raises SlotBroken."""
    return len(_manifest_bytes(slot))


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


def listed(slot: Slot) -> tuple[FileEntry, ...]:
    """Return the files that the slot's manifest lists, unchecked; none if it cannot be read."""
    try:
        return parse_manifest(_manifest_bytes(slot)).files
    except (SlotBroken, BundleError, VersionUnsupported):
        return ()


def lacking(slot: Slot, entries: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
    """Return those files that do not lie in the slot, whole."""
    found = []
    for entry in entries:
        try:
            _check_file(slot, entry.name, entry.length, entry.digest)
        except SlotBroken:
            found.append(entry)
    return tuple(found)


def fill(
    slot: Slot,
    manifest: bytes,
    entries: Iterable[FileEntry],
    bring: Callable[[FileEntry, Path], None],
) -> None:
    """Make the slot hold a bundle, sealed as untried; `bring` moves a whole file to a path.

    What lies there already stays. The old manifest goes first and the new one comes last: a slot
    that was interrupted in between holds none, is never taken for whole, and is filled further the
    next time. Raises SlotUnwritable, StorageFull and what `bring` raises.
    """
    files = {entry.name: entry for entry in entries}
    try:
        durable.make_directory(slot.directory)
        (slot.directory / MANIFEST_NAME).unlink(missing_ok=True)
        durable.sync_directory(slot.directory)
        digest = hashlib.sha256(manifest).hexdigest()
        seals.write(slot.directory, Seal(digest, Mark.UNTRIED))
        for path in slot.directory.iterdir():
            if path.name not in {*files, seals.SEAL_NAME}:
                path.unlink()
        for entry in lacking(slot, files.values()):
            bring(entry, slot.directory / entry.name)
        durable.sync_directory(slot.directory)
        durable.write(slot.directory / MANIFEST_NAME, manifest)
    except OSError as error:
        raise unwritable(f"slot {slot.family}/{slot.name}", error) from error


def sweep(root: Path) -> None:
    """Remove what writes that were cut short left beside the files they were for."""
    for family in families(root):
        for folder in (root / family, *(slot(root, family, name).directory for name in NAMES)):
            for left in folder.glob(".*"):
                with suppress(OSError):
                    left.unlink()


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


def _pointer(root: Path, family: str) -> str | None:
    try:
        with (root / family / POINTER_NAME).open("rb") as file:
            name = file.read(_POINTER_BYTES_MAX).decode("ascii", "replace").strip()
    except OSError:
        return None
    return name if name in NAMES else None


def _filled_at(slot: Slot) -> float:
    try:
        return (slot.directory / MANIFEST_NAME).stat().st_mtime
    except OSError:
        return 0.0


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
