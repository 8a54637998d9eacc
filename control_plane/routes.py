"""The HTTP half of the composition root: which routes there are, and what each of them is given.

The parts are made and started in `service`; nothing is decided here.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from control_plane.api import alerts as alert_routes
from control_plane.api import app as application
from control_plane.api import assessments as assessment_routes
from control_plane.api import audit as audit_routes
from control_plane.api import broker as broker_routes
from control_plane.api import cohorts as cohort_routes
from control_plane.api import declarations as declaration_routes
from control_plane.api import devices as device_routes
from control_plane.api import enrolment as enrolment_routes
from control_plane.api import est as est_routes
from control_plane.api import events as event_routes
from control_plane.api import releases as release_routes
from control_plane.api import rollouts as rollout_routes
from control_plane.api import samples as sample_routes
from control_plane.api import schemas as schema_routes
from control_plane.api import simulation as simulation_routes
from control_plane.api import status as status_routes
from control_plane.api import stored_telemetry as stored_routes
from control_plane.api import strangers as stranger_routes
from control_plane.api import telemetry as telemetry_routes
from control_plane.api import tokens as token_routes
from control_plane.api import watches as watch_routes
from control_plane.api import webhooks as webhook_routes
from control_plane.audit import Statement
from control_plane.fleet.enrolment import Enrolments
from control_plane.fleet.renewal import Renewals
from control_plane.releases import retention
from control_plane.telemetry.assessments import Assessments
from control_plane.telemetry.cohort_drift import CohortDrift
from control_plane.telemetry.device_drift import DeviceDrifts
from control_plane.telemetry.latency_groups import Latencies
from control_plane.telemetry.samples import LabelledSamples, ModelFacts, facts_of
from control_plane.web import pages
from control_plane.web.device_view import DeviceReader
from control_plane.web.outlook import Outlooks
from control_plane.web.rollout_view import RolloutReader
from control_plane.web.snapshot import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import APIRouter, FastAPI

    from control_plane.alerts.posting import Posting
    from control_plane.alerts.rounds import Rounds
    from control_plane.api.auth import Access
    from control_plane.broker.client import BrokerClient
    from control_plane.broker.endpoint import Broker
    from control_plane.broker.inbox import Inbox
    from control_plane.config import Config
    from control_plane.fleet.authority import Authority
    from control_plane.fleet.cohorts import Cohorts
    from control_plane.fleet.retirement import Retirements
    from control_plane.fleet.revocation import Revocations
    from control_plane.fleet.strangers import Strangers
    from control_plane.releases.chunk_files import ChunkFiles
    from control_plane.releases.online_keys import OnlineKeys
    from control_plane.releases.publisher import Publisher
    from control_plane.releases.registry import Registry
    from control_plane.releases.repository import ModelsRepository
    from control_plane.store.stores import Stores
    from control_plane.telemetry.baselines import Baselines
    from control_plane.telemetry.watching import Watching


class Parts(NamedTuple):
    """What routes speak to."""

    config: Config
    stores: Stores
    clock: Callable[[], float]
    access: Access
    server_url: str
    authority: Authority
    broker: Broker
    client: BrokerClient
    inbox: Inbox
    repository: ModelsRepository
    registry: Registry
    chunks: ChunkFiles
    publisher: Publisher
    keys: OnlineKeys
    cohorts: Cohorts
    strangers: Strangers
    revocations: Revocations
    retirements: Retirements
    baselines: Baselines
    watching: Watching
    rounds: Rounds
    posting: Posting


def create(parts: Parts) -> FastAPI:
    """Return the application with all routes."""
    watching, page = _watching(parts)
    renewals = Renewals(parts.stores.certificates, parts.authority, parts.clock)
    est = est_routes.router(renewals, chain_pem=parts.authority.chain_pem)
    status = status_routes.Status(
        version=version("shoal"), broker=parts.broker.name, broker_url=parts.broker.offered.url
    )
    return application.create(
        version("shoal"),
        api=[
            *_fleet(parts),
            *_releases(parts),
            *watching,
            schema_routes.router(parts.access),
            token_routes.router(parts.access, parts.stores.tokens, parts.clock),
            audit_routes.router(parts.access, parts.stores.audit),
            status_routes.router(parts.access, status),
        ],
        pages=[page, est],
    )


def _fleet(parts: Parts) -> list[APIRouter]:
    """Return the routes of devices, of who may become one, and of their broker."""
    enrolments = Enrolments(
        parts.stores.invitations,
        parts.stores.devices,
        parts.stores.certificates,
        parts.authority,
        roots=parts.repository.roots,
        broker=parts.broker.offered.url,
        clock=parts.clock,
    )
    return [
        enrolment_routes.router(
            parts.access,
            enrolments,
            ca_pem=parts.authority.certificate_pem,
            server_url=parts.server_url,
        ),
        device_routes.router(
            parts.access,
            parts.stores.devices,
            parts.cohorts,
            parts.stores.certificates,
            revoke=parts.revocations.revoke,
            retire=parts.retirements.retire,
            clock=parts.clock,
        ),
        stranger_routes.router(parts.access, parts.strangers),
        broker_routes.router(
            parts.access,
            parts.authority,
            standing=lambda: _broker_standing(parts),
            revoked=parts.revocations.current,
            note=_noting(parts),
        ),
        cohort_routes.router(parts.access, parts.cohorts),
        declaration_routes.router(parts.access, parts.stores.declarations, parts.clock),
    ]


def _releases(parts: Parts) -> list[APIRouter]:
    """Return the routes of releases and of what brings them to devices."""
    return [
        release_routes.router(
            repository=parts.repository,
            registry=parts.registry,
            patches=parts.stores.patches,
            chunk_files=parts.chunks,
            publisher=parts.publisher,
            online_keys=parts.keys,
            access=parts.access,
            note=_noting(parts),
        ),
        rollout_routes.router(
            parts.access,
            parts.stores.rollouts,
            parts.registry,
            parts.cohorts,
            parts.clock,
        ),
        simulation_routes.router(parts.access, parts.registry, parts.cohorts, parts.clock),
    ]


def _noting(parts: Parts) -> Callable[[str, str, str], None]:
    """Return what tells the audit log of deeds that are in no database."""

    def note(actor: str, action: str, subject: str) -> None:
        parts.stores.audit.note(Statement(parts.clock(), actor, action, subject))

    return note


def _broker_standing(parts: Parts) -> broker_routes.BrokerStanding:
    chunks, age = parts.publisher.choice, parts.revocations.age()
    return broker_routes.BrokerStanding(
        name=parts.broker.name,
        url=parts.broker.offered.url,
        is_connected=parts.client.is_connected,
        retained_bytes_max=parts.config.retained_bytes_max,
        retained_bytes=retention.bytes_of(chunks.retained),
        retained_chunks=len(chunks.retained),
        left_out_bytes=retention.bytes_of(chunks.left_out),
        left_out_chunks=len(chunks.left_out),
        list_given=age.given,
        list_ends=age.ends,
        list_is_late=age.is_late,
        refused=dict(parts.inbox.refused),
        dropped=parts.inbox.dropped,
    )


def _alerting(parts: Parts, devices: DeviceDrifts) -> list[APIRouter]:
    """Return the routes of watches, of alerts and of who is told."""
    stores, access = parts.stores, parts.access
    return [
        watch_routes.router(access, parts.watching, devices),
        alert_routes.router(access, stores.alerts, parts.rounds),
        webhook_routes.router(access, stores.outbox, parts.posting, parts.clock),
    ]


def _watching(parts: Parts) -> tuple[list[APIRouter], APIRouter]:
    """Return the routes of telemetry and events, and the browser's."""
    stores, members = parts.stores, parts.cohorts.members
    drift = CohortDrift(stores.telemetry, stores.watches, parts.baselines, members, parts.clock)
    devices = DeviceDrifts(stores.outcomes, stores.watches, parts.baselines, members, parts.clock)
    reader = Reader(
        overview=stores.overview,
        telemetry=stores.telemetry,
        rollouts=stores.rollouts,
        cohorts=parts.cohorts,
        drift=drift,
        alerts=stores.alerts,
        devices=devices,
        clock=parts.clock,
    )
    watching = [
        *_alerting(parts, devices),
        telemetry_routes.router(parts.access, stores.telemetry, drift, members),
        assessment_routes.router(
            parts.access,
            Assessments(
                stores.outcomes,
                parts.baselines,
                members,
                parts.clock,
                stores.watches.changed_since,
            ),
            stores.telemetry.pending_labels,
        ),
        stored_routes.router(parts.access, _latencies(parts), stores.pruning),
        _samples(parts),
        event_routes.router(parts.access, pages.make_feed(reader)),
    ]
    return watching, pages.router(
        parts.access,
        reader,
        RolloutReader(stores.rollouts, Outlooks(parts.registry), parts.clock),
        DeviceReader(
            stores.devices, stores.history, stores.rollouts, stores.certificates, parts.clock
        ),
        f"{application.API_PREFIX}/events",
    )


def _latencies(parts: Parts) -> Latencies:
    cohorts = parts.cohorts
    return Latencies(
        parts.stores.tallies,
        cohorts.members,
        lambda: [each.name for each in cohorts.all()],
        parts.clock,
    )


def _samples(parts: Parts) -> APIRouter:
    stored, registry = parts.stores.samples, parts.registry

    def facts(digest: str) -> ModelFacts | None:
        release = registry.by_digest(digest)
        if release is None:
            return None
        manifest, labels = registry.manifest(digest), ""
        if manifest.classification is not None:
            labels = registry.file(digest, manifest.classification.labels).decode()
        return facts_of(manifest, digest, release.path, labels.splitlines())

    return sample_routes.router(
        parts.access,
        stored,
        LabelledSamples(stored, parts.cohorts.members, facts, parts.clock),
        lambda family, version: registry.find(family, version).digest,
        _noting(parts),
    )
