"""Rollouts over HTTP: start, check, look, and a person's verbs."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

import secrets
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Body, Depends, Query
from pydantic import BaseModel, Field

from control_plane.api import rollout_file
from control_plane.api.auth import Access, Caller, Role
from control_plane.api.devices import ROWS_DEFAULT, ROWS_MAX
from control_plane.api.rollout_acts import approve_phase, decide
from control_plane.rollouts import approvals
from control_plane.rollouts.checks import Severity
from control_plane.rollouts.draft import Draft, Releases, draft
from control_plane.rollouts.model import (
    FleetView,
    Rollout,
    phase_ends,
    phase_ranges,
    phase_states,
)
from control_plane.rollouts.planner import plan
from control_plane.rollouts.selection import Fleet
from control_plane.rollouts.spec import PHASES_MAX
from control_plane.rollouts.verbs import VERBS, Verb
from control_plane.store.rollouts import Decision, Rollouts
from firmware_bundles.errors import RolloutDoubtful

_ID_SUFFIX_BYTES: Final = 3


class RolloutSummary(BaseModel):
    """One rollout in a list; `phase` counts from 0."""

    id: str
    family: str
    release: str
    cohort: str
    state: str
    phase: int
    phase_state: str
    phase_count: int
    since: float
    generation: int
    created: float
    created_by: str


class PhaseCounts(BaseModel):
    """How many devices of a phase stand where; each is in one of these."""

    planned: int
    waiting: int
    in_progress: int
    shadowing: int
    committed: int
    differing: int
    failed: int
    rolled_back: int
    reverting: int
    reverted: int
    superseded: int


class PhaseDetail(BaseModel):
    """One phase; `first` to `end` (exclusive) are positions in the rollout's order of devices."""

    state: str
    mode: str
    first: int
    end: int
    soak_s: float
    timeout_s: float
    counts: PhaseCounts


class GateFinding(BaseModel):
    """What a gate found; without a verdict it does not apply, and the sentence says why."""

    gate: str
    verdict: str | None
    sentence: str
    value: float | None = None
    threshold: float | None = None
    samples: dict[str, int] = {}
    left_s: float | None = None


class Note(BaseModel):
    """Something doubtful about a rollout before it starts, and the field that it is about."""

    code: str
    severity: str
    field: str
    sentence: str


class DecisionDetail(BaseModel):
    """One decision with its reasons."""

    generation: int
    at: float
    state: str
    phase: int
    phase_state: str
    why: list[str]
    gates: list[GateFinding]


class ApprovedPhase(BaseModel):
    """Which phase may begin, counted from 0; without one the first that wants an approval."""

    phase: Annotated[int, Field(ge=0, lt=PHASES_MAX)] | None = None


class GivenApproval(BaseModel):
    """Who let a phase, counted from 0, begin, and when."""

    phase: int
    by: str
    at: float


class RolloutDetail(RolloutSummary):
    """One rollout with all that is known of it; `why` tells of now, the decisions of before.

    `later` counts devices that came after the end, which are in no phase.
    """

    release_path: str
    members: int
    phases: list[PhaseDetail]
    later: PhaseCounts
    gates: list[GateFinding]
    why: list[str]
    decisions: list[DecisionDetail]
    approvals: list[GivenApproval]
    approvals_wanted: list[int]
    spec: dict[str, Any]


class RolloutStarted(RolloutDetail):
    """A rollout that was just started, and what was doubtful about it."""

    notes: list[Note]


class RolloutPreview(BaseModel):
    """What a rollout file would start: how many devices each phase reaches, and who is left out."""

    id: str
    release_path: str
    members: int
    left_out: list[str]
    phase_ends: list[int]
    notes: list[Note]
    spec: dict[str, Any]


class DeploymentDetail(BaseModel):
    """Where one device of a rollout stands."""

    device_id: str
    position: int
    status: str
    generation: int
    previous_path: str | None
    serving_digest: str | None
    fault_code: str | None
    fault_message: str | None


_POSITION_MAX: Final = 2**31 - 1
_After = Annotated[int, Query(ge=-1, le=_POSITION_MAX, description="`next` of the page before")]
_Limit = Annotated[int, Query(ge=1, le=ROWS_MAX)]


class DeploymentPage(BaseModel):
    """Some devices of a rollout; `next` goes on as `after`, and is missing at the end."""

    devices: list[DeploymentDetail]
    next: int | None


def router(
    access: Access,
    rollouts: Rollouts,
    releases: Releases,
    fleet: Fleet,
    clock: Callable[[], float],
) -> APIRouter:
    """Return the routes below `/rollouts`."""
    routes = APIRouter(prefix="/rollouts", tags=["rollouts"])
    viewer, operator = access.require(Role.VIEWER), access.require(Role.OPERATOR)

    def read(body: bytes, caller: Caller) -> Draft:
        suffix = secrets.token_hex(_ID_SUFFIX_BYTES)
        return draft(body, releases, fleet, now=clock(), by=caller.responsible, suffix=suffix)

    @routes.post("", status_code=201, openapi_extra=rollout_file.FORMATS)
    def start(
        caller: Annotated[Caller, Depends(operator)],
        body: Annotated[bytes, Depends(rollout_file.read)],
        strict: Annotated[bool, Query(description="Refuse it if there is a warning")] = False,  # noqa: FBT002 a query
    ) -> RolloutStarted:
        """Start a rollout as a YAML or JSON file describes it."""
        drafted = read(body, caller)
        if strict:
            _refuse_warnings(drafted)
        wanted, chosen = drafted.rollout, drafted.chosen
        rollouts.create(wanted, chosen.members, caller.actor, chosen.left_out)
        found = detail(rollouts, wanted, clock())
        return RolloutStarted(**found.model_dump(), notes=_notes(drafted))

    @routes.post("/check", openapi_extra=rollout_file.FORMATS)
    def check(
        caller: Annotated[Caller, Depends(viewer)],
        body: Annotated[bytes, Depends(rollout_file.read)],
    ) -> RolloutPreview:
        """Check a rollout file and say what it would start, and what is doubtful about it."""
        return _preview(read(body, caller))

    @routes.get("", dependencies=[Depends(viewer)])
    def list_all() -> list[RolloutSummary]:
        """List all rollouts, the newest first."""
        return [RolloutSummary(**_summary(rollout)) for rollout in rollouts.all()]

    @routes.get("/{rollout_id}", dependencies=[Depends(viewer)])
    def show(rollout_id: str) -> RolloutDetail:
        """Show a rollout: phases with counts, what the gates find, why, and all decisions."""
        return detail(rollouts, rollouts.get(rollout_id), clock())

    routes.get("/{rollout_id}/devices", dependencies=[Depends(viewer)])(_devices(rollouts))

    @routes.post("/{rollout_id}/approve")
    def approve(
        rollout_id: str,
        caller: Annotated[Caller, Depends(access.require(Role.APPROVER))],
        wanted: Annotated[ApprovedPhase | None, Body()] = None,
    ) -> RolloutDetail:
        """Let a phase begin that asks for an approval. Who started the rollout may not."""
        phase = None if wanted is None else wanted.phase
        approved = approve_phase(rollouts, rollout_id, phase, caller, clock)
        return detail(rollouts, approved, clock())

    for name, verb in VERBS.items():
        routes.post(f"/{{rollout_id}}/{name}", name=name, summary=name.title())(
            _verb(rollouts, verb, operator, clock)
        )
    return routes


def _devices(rollouts: Rollouts) -> Callable[..., DeploymentPage]:
    def devices(
        rollout_id: str, after: _After = -1, limit: _Limit = ROWS_DEFAULT
    ) -> DeploymentPage:
        """List where devices of a rollout stand, in the order of offers."""
        rows = rollouts.deployments(rollouts.get(rollout_id), after, limit)
        shown = [DeploymentDetail(**row._asdict()) for row in rows]
        is_full = len(rows) == limit
        return DeploymentPage(devices=shown, next=rows[-1].position if is_full else None)

    return devices


def _verb(
    rollouts: Rollouts,
    verb: Verb,
    operator: Callable[..., Caller],
    clock: Callable[[], float],
) -> Callable[..., RolloutDetail]:
    def act(rollout_id: str, caller: Annotated[Caller, Depends(operator)]) -> RolloutDetail:
        changed = decide(
            rollouts, rollout_id, partial(verb, by=caller.responsible), clock, caller.actor
        )
        return detail(rollouts, changed, clock())

    act.__doc__ = verb.__doc__
    return act


def _refuse_warnings(drafted: Draft) -> None:
    warnings = [note for note in drafted.notes if note.severity is Severity.WARNING]
    if warnings:
        first = f"{warnings[0].field}: {warnings[0].sentence} ({warnings[0].code})"
        more = f", and {len(warnings) - 1} more" if len(warnings) > 1 else ""
        raise RolloutDoubtful(f"{first}{more}")


def _notes(drafted: Draft) -> list[Note]:
    return [Note.model_validate(msgspec.to_builtins(note)) for note in drafted.notes]


def _summary(rollout: Rollout) -> dict[str, Any]:
    standing = rollout.standing
    return {
        "id": rollout.id,
        "family": rollout.spec.family,
        "release": rollout.spec.release,
        "cohort": rollout.spec.cohort,
        "state": standing.state,
        "phase": standing.phase,
        "phase_state": standing.phase_state,
        "phase_count": len(rollout.spec.course()),
        "since": standing.since,
        "generation": standing.generation,
        "created": rollout.created,
        "created_by": rollout.created_by,
    }


def detail(rollouts: Rollouts, rollout: Rollout, now: float) -> RolloutDetail:
    """Return all that is known of a rollout now."""
    view, decisions = rollouts.view(rollout), rollouts.decisions(rollout.id)
    planned = plan(rollout, view, now)
    findings = msgspec.to_builtins(planned.findings) or _last_gates(decisions)
    return RolloutDetail(
        **_summary(rollout),
        release_path=rollout.release_path,
        members=view.members,
        phases=_phases(rollout, view),
        later=PhaseCounts.model_validate(view.later, from_attributes=True),
        gates=[GateFinding(**finding) for finding in findings],
        why=list(planned.why) if rollout.is_open or rollout.later else decisions[-1].why,
        decisions=[DecisionDetail.model_validate(each._asdict()) for each in decisions],
        approvals=[GivenApproval(**msgspec.to_builtins(each)) for each in rollout.approvals],
        approvals_wanted=list(approvals.wanting(rollout)) if rollout.is_open else [],
        spec=msgspec.to_builtins(rollout.spec),
    )


def _last_gates(decisions: list[Decision]) -> list[dict[str, Any]]:
    """Return what the gates found when they were asked last; after the end, they are not."""
    return next((each.gates for each in reversed(decisions) if each.gates), [])


def _phases(rollout: Rollout, view: FleetView) -> list[PhaseDetail]:
    course = rollout.spec.course()
    ranges = phase_ranges(rollout.spec, view.members, rollout.joined)
    states = phase_states(rollout.standing, len(course))
    return [
        PhaseDetail(
            state=state,
            mode=phase.mode,
            first=first,
            end=end,
            soak_s=phase.soak_s,
            timeout_s=phase.timeout_s,
            counts=PhaseCounts.model_validate(counts, from_attributes=True),
        )
        for phase, state, (first, end), counts in zip(
            course, states, ranges, view.phases, strict=True
        )
    ]


def _preview(drafted: Draft) -> RolloutPreview:
    rollout, chosen = drafted.rollout, drafted.chosen
    return RolloutPreview(
        id=rollout.id,
        release_path=rollout.release_path,
        members=chosen.devices,
        left_out=[str(each) for each in chosen.left_out],
        phase_ends=list(phase_ends(rollout.spec, chosen.devices)),
        notes=_notes(drafted),
        spec=msgspec.to_builtins(rollout.spec),
    )
