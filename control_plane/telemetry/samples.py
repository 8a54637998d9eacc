"""Samples with what was told of them: captured inputs beside labels, page by page.

Nothing is decided here but which label counts: the first that came, as everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.store.samples import Place, Query
from firmware_bundles.errors import WireError
from firmware_bundles.wire.columns import UNKNOWN, decode_labels
from firmware_bundles.wire.samples import decode_samples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from control_plane.store.samples import Samples, SampleSegment
    from firmware_bundles.manifest import Manifest

PAGE_MAX: Final = 200
# What came later may belong to a transaction that is not committed yet.
SETTLED_S: Final = 60.0


class Labelled(NamedTuple):
    """A segment of samples, and by sequence number the labels that were told of them."""

    segment: SampleSegment
    labels: dict[int, int]


class ModelFacts(NamedTuple):
    """What the numbers of samples mean: names and sizes of the inputs in order, and class names."""

    digest: str
    family: str
    version: str | None
    release: str | None
    inputs: list[tuple[str, int]]
    labels: list[str]


class Page(NamedTuple):
    """Some segments in their order, and the place of the last; None after the end."""

    segments: list[Labelled]
    models: list[ModelFacts]
    after: Place | None


class Question(NamedTuple):
    """Which samples, as a person asks; `until` None is now."""

    family: str
    since: float
    until: float | None
    model: str | None = None
    cohort: str | None = None


class LabelledSamples:
    """Finds samples, and joins labels to them."""

    def __init__(
        self,
        samples: Samples,
        members: Callable[[str], Sequence[str]],
        facts: Callable[[str], ModelFacts | None],
        clock: Callable[[], float],
    ) -> None:
        self._samples = samples
        self._members = members
        self._facts = facts
        self._clock = clock

    def query(self, asked: Question) -> Query:
        """Return the query that gives the same answer for as long as nothing is deleted.

        Raises NotFound for an unknown cohort.
        """
        devices = None if asked.cohort is None else frozenset(self._members(asked.cohort))
        settled = self._clock() - SETTLED_S
        until = settled if asked.until is None else min(asked.until, settled)
        return Query(asked.family, asked.since, until, asked.model, devices)

    def page(self, query: Query, after: Place | None, limit: int = PAGE_MAX) -> Page:
        """Return the next segments with their labels, and what is known of their models."""
        found = self._samples.page(query, after, limit)
        told: dict[str, dict[tuple[str, int], int]] = {}
        segments: list[Labelled] = []
        for each in found:
            if each.device_id not in told:
                bodies = self._samples.labels(each.device_id, query.family, query.until)
                told[each.device_id] = first_labels(bodies)
            segments.append(Labelled(each, labels_of(each, told[each.device_id])))
        models = [self._model(query.family, digest) for digest in sorted({e.model for e in found})]
        return Page(segments, models, found[-1].place if len(found) == limit else None)

    def _model(self, family: str, digest: str) -> ModelFacts:
        known = self._facts(digest)
        return ModelFacts(digest, family, None, None, [], []) if known is None else known


def first_labels(bodies: Iterable[bytes]) -> dict[tuple[str, int], int]:
    """Return the first label that was told of each prediction. Pure."""
    found: dict[tuple[str, int], int] = {}
    for body in bodies:
        try:
            rows = decode_labels(body)
        except WireError:  # it was read when it came
            continue
        names = [rows.incarnations[at] for at in rows.incarnation.tolist()]
        for place in zip(names, rows.prediction.tolist(), rows.labels.tolist(), strict=True):
            if place[2] != UNKNOWN:
                found.setdefault((place[0], place[1]), place[2])
    return found


def labels_of(segment: SampleSegment, told: dict[tuple[str, int], int]) -> dict[int, int]:
    """Return the labels of a segment's samples by their numbers. Pure."""
    numbers = decode_samples(segment.body).sequence.tolist()
    places = ((number, told.get((segment.incarnation, number))) for number in numbers)
    return {number: label for number, label in places if label is not None}


def facts_of(manifest: Manifest, digest: str, path: str, labels: Sequence[str]) -> ModelFacts:
    """Return what a published model's samples mean. Pure."""
    inputs = [(tensor.name, _size(tensor.shape)) for tensor in manifest.inputs]
    return ModelFacts(digest, manifest.family, manifest.version, path, inputs, list(labels))


def _size(shape: Sequence[int]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size
