"""Simulated rollouts over HTTP: what a rollout file would do, before anybody starts it."""

# Without postponed annotations: FastAPI reads those of routes, which name local dependencies.

import random
from collections.abc import Callable
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from control_plane.api import rollout_file
from control_plane.api.auth import Access, Caller, Role
from control_plane.rollouts import sensitivity
from control_plane.rollouts.draft import Releases, draft
from control_plane.rollouts.expected import quantities
from control_plane.rollouts.model import Rollout, Standing
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.selection import Fleet
from control_plane.rollouts.simulate import QUANTILES, Run, run, summarize
from control_plane.rollouts.world import World
from firmware_bundles.errors import InputError
from firmware_bundles.identifiers import target_path

DEVICE_RUNS_MAX: Final = 40_000
"""Devices times runs that one request may ask for: they take processor time of this process."""
_DAYS_S: Final = 30 * 86_400

Rate = Annotated[float, Field(ge=0, le=1)]


class Assumptions(BaseModel):
    """What a fleet and a candidate are assumed to be like; shares are of all devices.

    Without `devices` it is the cohort of the file, with the size of the release; with it the fleet
    is made up, and neither need exist. Meanings and units are those of the how-to page.
    """

    model_config = ConfigDict(extra="forbid")

    devices: Annotated[int, Field(ge=1, le=DEVICE_RUNS_MAX)] | None = None
    model_bytes: Annotated[int, Field(ge=0, lt=2**40)] | None = None
    bytes_per_s: Annotated[float, Field(gt=0, le=1e10)] = 100_000.0
    install_s: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    failed: Rate = 0.01
    rolled_back: Rate = 0.0
    silent: Rate = 0.0
    offline: Rate = 0.1
    offline_s: Annotated[float, Field(gt=0, le=_DAYS_S)] = 14_400.0
    slow: Rate = 0.05
    slow_factor: Annotated[float, Field(ge=1, le=1_000)] = 10.0
    drifting: Rate = 0.0
    report_s: Annotated[float, Field(ge=1, le=86_400)] = 900.0
    labels_per_h: Annotated[float, Field(ge=0, le=1e5)] = 0.0
    errors: Rate = 0.05
    spread: Annotated[float, Field(ge=0, lt=1)] = 0.02
    excess: Rate = 0.0
    harm: Rate | None = None
    approval_s: Annotated[float, Field(ge=0, le=_DAYS_S)] = 0.0
    runs: Annotated[int, Field(ge=1, le=1_000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    transcript: bool = False

    def world(self, members: int, model_bytes: int) -> World:
        """Return the world of a candidate that is as `excess` says."""
        fields = {name: getattr(self, name) for name in World.__struct_fields__ if name in _SHARED}
        return World(members=members, model_bytes=model_bytes, **fields)


_SHARED: Final = frozenset(Assumptions.model_fields) - {"devices", "model_bytes"}


class Outcomes(BaseModel):
    """How runs ended, and what they took, as quantiles: 10 %, the median, 90 %.

    `stopped` is the share of runs that were not completed.
    """

    runs: int
    outcomes: dict[str, int]
    duration_s: list[float]
    soaked_s: list[float]
    bytes: list[float]
    served_max: list[float]
    stopped: float
    phases_stopped: dict[str, int]


class TranscriptLine(BaseModel):
    """One decision of the first run: seconds since it began, where it led, and why."""

    at_s: float
    state: str
    phase: int
    phase_state: str
    why: list[str]


class Simulation(BaseModel):
    """What a rollout would do; `harmful` is the same with a worse candidate.

    It errs `harm` more, and has as much more of all that gates compare as they must not miss.
    """

    members: int
    model_bytes: int
    quantiles: list[float]
    as_assumed: Outcomes
    harm: float | None
    harmful: Outcomes | None
    transcript: list[TranscriptLine]


def router(
    access: Access, releases: Releases, fleet: Fleet, clock: Callable[[], float]
) -> APIRouter:
    """Return the route that simulates."""
    routes = APIRouter(prefix="/rollouts", tags=["rollouts"])

    @routes.post("/simulate", openapi_extra=rollout_file.FORMATS)
    def simulate(
        caller: Annotated[Caller, Depends(access.require(Role.OPERATOR))],
        body: Annotated[bytes, Depends(rollout_file.read)],
        assumed: Annotated[Assumptions, Query()],
    ) -> Simulation:
        """Run a rollout file over a simulated fleet, with the planner and the gates themselves."""
        rollout, world = _setting(body, assumed, releases, fleet, clock(), caller)
        if world.members * assumed.runs > DEVICE_RUNS_MAX:
            raise InputError(
                f"{world.members} devices in {assumed.runs} runs are too many to simulate",
                hint=f"Devices times runs may be {DEVICE_RUNS_MAX}: choose devices, or fewer runs.",
            )
        return _simulated(rollout, world, assumed)

    return routes


def _setting(
    body: bytes,
    assumed: Assumptions,
    releases: Releases,
    fleet: Fleet,
    now: float,
    caller: Caller,
) -> tuple[Rollout, World]:
    """Return the rollout and its world: the real fleet's, or a made-up one."""
    if assumed.devices is not None:
        spec = parse(body)
        path = target_path(spec.family, spec.release)
        rollout = Rollout(id="simulated", spec=spec, release_path=path, standing=Standing())
        return rollout, assumed.world(assumed.devices, assumed.model_bytes or 1_000_000)
    drafted = draft(body, releases, fleet, now=now, by=caller.responsible, suffix="simulated")
    size = drafted.model_bytes if assumed.model_bytes is None else assumed.model_bytes
    return drafted.rollout, assumed.world(drafted.chosen.devices, size)


def _simulated(rollout: Rollout, world: World, assumed: Assumptions) -> Simulation:
    runs = _runs(rollout, world, assumed)
    harm = _harm(rollout, world, assumed)
    harmful = None
    if harm is not None:
        worse = msgspec.structs.replace(world, excess=harm, is_worse=True)
        harmful = _outcomes(_runs(rollout, worse, assumed))
    lines = runs[0].lines if assumed.transcript else ()
    return Simulation(
        members=world.members,
        model_bytes=world.model_bytes,
        quantiles=list(QUANTILES),
        as_assumed=_outcomes(runs),
        harm=harm,
        harmful=harmful,
        transcript=[TranscriptLine.model_validate(msgspec.to_builtins(each)) for each in lines],
    )


def _harm(rollout: Rollout, world: World, assumed: Assumptions) -> float | None:
    """Return the excess of errors that must not be missed; None where nothing could tell harm.

    It is 0 where gates on other quantities alone could.
    """
    gate = rollout.spec.gates.label_errors
    can_compare = any(
        quantities(phase.gates.over(rollout.spec.gates), phase) for phase in rollout.spec.phases
    )
    otherwise = 0.0 if can_compare else None
    if not world.labels_per_h:
        return otherwise
    if assumed.harm is not None:
        return assumed.harm
    return otherwise if gate is None else sensitivity.wanted(gate.margin)


def _runs(rollout: Rollout, world: World, assumed: Assumptions) -> list[Run]:
    seeds = range(assumed.seed, assumed.seed + assumed.runs)
    return [run(rollout, world, random.Random(seed)) for seed in seeds]  # noqa: S311 a simulation


def _outcomes(runs: list[Run]) -> Outcomes:
    found: dict[str, Any] = msgspec.to_builtins(summarize(runs))
    return Outcomes.model_validate(found)
