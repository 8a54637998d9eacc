"""A control plane as far as samples need it: intake, retention's store, and the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI

from control_plane.api import app as application
from control_plane.api import samples as sample_routes
from control_plane.api import tokens
from control_plane.api.auth import Access, Role
from control_plane.store.access import AccessTokens
from control_plane.store.database import Database
from control_plane.store.samples import Place, Query, Samples
from control_plane.store.telemetry import Telemetry
from control_plane.telemetry.ingest import Ingest
from control_plane.telemetry.samples import PAGE_MAX, LabelledSamples, ModelFacts, Page
from firmware_bundles.errors import NotFound
from firmware_bundles.wire.messages import Segment
from support import fleet_rows, segments


@dataclass
class SampleWorld:
    """Two devices, ant of the cohort berlin and bee, and version 1 of digits."""

    database: Database
    now: float = fleet_rows.NOW
    page_max: int = PAGE_MAX
    notes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wire the parts."""
        for device_id in ("ant", "bee"):
            fleet_rows.enrol(self.database, device_id)
        self.model = fleet_rows.publish(self.database, "1", 1, {})
        self.samples = Samples(self.database)
        self.ingest = Ingest(
            Telemetry(self.database), lambda _: fleet_rows.SECRET, lambda *_: None, self._clock
        )
        rows = AccessTokens(self.database)
        self._access = Access(rows, b"s" * 32, self._clock)
        self.token = tokens.create(rows, "alice", Role.OPERATOR, self.now).token
        self.viewer = tokens.create(rows, "bob", Role.VIEWER, self.now).token

    def send(self, device_id: str, *sent: Segment) -> None:
        """Let a device's segments arrive."""
        sealed = [segments.seal(device_id, fleet_rows.SECRET, each) for each in sent]
        self.ingest.ingest([(device_id, each) for each in sealed])

    def later(self, seconds: float) -> None:
        """Let time go by."""
        self.now += seconds

    def app(self) -> FastAPI:
        """The routes of samples."""
        labelled = _Paged(self.samples, self._members, self._facts, self._clock)
        labelled.most = lambda: self.page_max
        routes = sample_routes.router(
            self._access, self.samples, labelled, self._digest, self._note
        )
        return application.create("0.1.0", api=[routes], pages=[])

    def _clock(self) -> float:
        return self.now

    def _note(self, _actor: str, action: str, subject: str) -> None:
        self.notes.append((action, subject))

    def _digest(self, family: str, version: str) -> str:
        if (family, version) != ("digits", "1"):
            raise NotFound("there is no such release")
        return self.model

    def _members(self, cohort: str) -> list[str]:
        if cohort != "berlin":
            raise NotFound("there is no such cohort")
        return ["ant"]

    def _facts(self, digest: str) -> ModelFacts | None:
        if digest != self.model:
            return None
        path = "digits/1/manifest.json"
        return ModelFacts(digest, "digits", "1", path, [("t", 2)], ["no", "yes"])


class _Paged(LabelledSamples):
    """Pages of a size that a test chooses."""

    most: Callable[[], int] = staticmethod(lambda: PAGE_MAX)

    def page(self, query: Query, after: Place | None, limit: int = PAGE_MAX) -> Page:
        """Return a page that is no larger."""
        return super().page(query, after, min(limit, self.most()))
