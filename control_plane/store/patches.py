"""Rows of patches, and what the fleet needs of them. Which are made is decided by `patch_plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, delete, func, insert, select, tuple_

from control_plane.store.schema import desired, patch, reported
from firmware_bundles.wire.messages import PatchReference

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement

    from control_plane.store.database import Database


class Pair(NamedTuple):
    """A release that devices run and one that they shall run, by their manifests' digests."""

    source: str
    target: str


class PatchRow(NamedTuple):
    """One file's patch as stored; without content it was not worth its bytes."""

    source: str
    target: str
    file: str
    source_file: str
    content: str | None
    chunks: Sequence[str]
    length: int
    full_length: int
    made: float

    @property
    def pair(self) -> Pair:
        """The releases it leads from and to."""
        return Pair(self.source, self.target)


class Transfers(NamedTuple):
    """What the devices that serve a release said came over the line for it, in sum."""

    devices: int
    chunk_bytes: int
    patch_bytes: int
    saved_bytes: int


class Patches:
    """All patches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def rows(self, target: str | None = None) -> list[PatchRow]:
        """Return the patches to a release, or all, the oldest first."""
        query = select(patch).order_by(patch.c.made, patch.c.source, patch.c.file)
        if target is not None:
            query = query.where(patch.c.target == target)
        with self._database.reading() as connection:
            return [PatchRow._make(row) for row in connection.execute(query)]

    def replace(self, pair: Pair, rows: Sequence[PatchRow]) -> None:
        """Store all that was made for a pair, in place of what there was."""
        with self._database.transaction() as connection:
            connection.execute(delete(patch).where(_is(pair)))
            for row in rows:
                connection.execute(insert(patch).values(row._asdict()))

    def remove(self, pairs: Collection[Pair]) -> None:
        """Forget the patches of these pairs."""
        with self._database.transaction() as connection:
            connection.execute(
                delete(patch).where(tuple_(patch.c.source, patch.c.target).in_(list(pairs)))
            )

    def running(self) -> dict[str, int]:
        """Return how many devices serve each release, by their last reports."""
        query = (
            select(reported.c.serving_digest, func.count())
            .where(reported.c.serving_digest.is_not(None))
            .group_by(reported.c.serving_digest)
        )
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def wanted(self) -> set[str]:
        """Return the releases that any device shall run."""
        with self._database.reading() as connection:
            return set(connection.execute(select(desired.c.digest).distinct()).scalars())

    def of_device(self, device_id: str) -> dict[str, list[PatchReference]]:
        """Return, by family, the patches from what a device serves to what it shall run.

        Those that save most come first.
        """
        both = and_(
            desired.c.device_id == reported.c.device_id, desired.c.family == reported.c.family
        )
        lead = and_(patch.c.source == reported.c.serving_digest, patch.c.target == desired.c.digest)
        query = (
            select(
                desired.c.family, patch.c.file, patch.c.source_file, patch.c.length, patch.c.content
            )
            .join(reported, both)
            .join(patch, lead)
            .where(desired.c.device_id == device_id, patch.c.content.is_not(None))
            .order_by(desired.c.family, patch.c.length - patch.c.full_length)
        )
        found: dict[str, list[PatchReference]] = {}
        with self._database.reading() as connection:
            for family, file, source, length, content in connection.execute(query):
                reference = PatchReference(file=file, source=source, length=length, content=content)
                found.setdefault(family, []).append(reference)
        return found

    def transfers(self, digest: str) -> Transfers:
        """Return what the devices that serve this release said of their downloads of it."""
        columns = (reported.c.chunk_bytes, reported.c.patch_bytes, reported.c.saved_bytes)
        query = select(func.count(), *(func.coalesce(func.sum(each), 0) for each in columns)).where(
            reported.c.serving_digest == digest, reported.c.chunk_bytes.is_not(None)
        )
        with self._database.reading() as connection:
            return Transfers._make(int(each) for each in connection.execute(query).one())


def _is(pair: Pair) -> ColumnElement[bool]:
    return and_(patch.c.source == pair.source, patch.c.target == pair.target)
