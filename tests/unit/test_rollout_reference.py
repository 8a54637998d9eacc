"""Whole rollouts over the reference fleet: what never happens, whatever devices and clocks do."""

from __future__ import annotations

import datetime as dt

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.rollouts import verbs
from control_plane.rollouts.device_policy import DevicePolicy, DeviceShadow
from control_plane.rollouts.gate_specs import Gates, InstallsGate
from control_plane.rollouts.model import (
    Action,
    Approval,
    Order,
    Plan,
    Rollout,
    RolloutState,
    Standing,
    phase_ranges,
)
from control_plane.rollouts.pacing import wave
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.phase_specs import OfferRate, PhaseSpec
from control_plane.rollouts.planner import plan
from control_plane.rollouts.spec import HoldOut, RolloutSpec
from support.rollout_reference import ReferenceFleet

MEMBERS = 14
STEP_S = 1_800.0
OFFSETS = (None, -420, 0, 540)
WINDOW = "22:00-05:00"
HALTED = (RolloutState.PAUSED, RolloutState.COMPLETED, RolloutState.ROLLED_BACK)
FATES = ("committed", "committed", "committed", "failed", "rolled_back", "differing", "waiting")

_RATES = st.none() | st.builds(
    OfferRate,
    devices=st.integers(1, 4),
    per_s=st.sampled_from([60.0, 3_600.0, 5_000.0]),
    growth=st.sampled_from([1.0, 1.4, 2.0]),
    devices_max=st.none() | st.integers(1, 6),
)


@st.composite
def _specs(draw: st.DrawFn) -> RolloutSpec:
    phases = [
        _phase(draw, size)
        for size in sorted(draw(st.sets(st.integers(1, MEMBERS), min_size=1, max_size=3)))
    ]
    if draw(st.booleans()):
        shadow = msgspec.structs.replace(_phase(draw, draw(st.integers(1, MEMBERS))), mode="shadow")
        phases.insert(draw(st.integers(0, len(phases) - 1)), shadow)
    return RolloutSpec(
        family="digits",
        release="2",
        cohort="all",
        phases=tuple(phases),
        gates=Gates(
            installs=InstallsGate(
                failed_share_max=draw(st.sampled_from([0.0, 0.2, 1.0])),
                silent_share_max=draw(st.sampled_from([0.0, 0.5, 1.0])),
            )
        ),
        on_failure=draw(st.sampled_from(["rollback", "rollback_phase", "pause"])),
        hold_out=draw(
            st.none() | st.builds(HoldOut, count=st.integers(1, 4), is_kept_after=st.booleans())
        ),
        policy=DevicePolicy(shadow=DeviceShadow(share=1.0)),
    )


def _phase(draw: st.DrawFn, size: int) -> PhaseSpec:
    return PhaseSpec(
        count=size,
        soak_s=draw(st.sampled_from([0.0, 3_600.0])),
        timeout_s=draw(st.sampled_from([1.0, 7_200.0])),
        rate=draw(_RATES),
        window=draw(st.sampled_from([None, WINDOW])),
        approval=draw(st.booleans()),
    )


class _Run:
    """A rollout whose devices do what a test drew for them, in the end; every offer is checked."""

    def __init__(self, spec: RolloutSpec, fates: list[str]) -> None:
        self.rollout = Rollout(id="r", spec=spec, release_path="p", standing=Standing())
        self.fleet = ReferenceFleet(MEMBERS, OFFSETS)
        self.fates = fates
        self.now = 0.0

    def step(self) -> None:
        """Let the planner decide, its orders be done, and the devices go on."""
        self.now += STEP_S
        view = self.fleet.view(self.rollout)
        planned = plan(self.rollout, view, self.now)
        assert planned == plan(self.rollout, view, self.now)
        if planned.next.state is RolloutState.COMPLETED:
            self._check_completion()
        self.follow(planned)
        self._live()

    def follow(self, planned: Plan) -> None:
        """Store a decision and do what it orders."""
        self.rollout = msgspec.structs.replace(self.rollout, standing=planned.next)
        if "approval" in planned.why[-1]:
            approval = Approval(phase=planned.next.phase, by="ben", at=self.now)
            self.rollout = msgspec.structs.replace(self.rollout, approvals=(approval,))
        for order in planned.orders:
            changed = self.fleet.carry_out(self.rollout, order, self.now)
            if order.action is Action.OFFER:
                self._check_offers(order, changed)
                assert self.fleet.carry_out(self.rollout, order, self.now) == []

    def _check_offers(self, order: Order, changed: list[int]) -> None:
        phase = self.rollout.spec.course()[order.phase]
        first, end = phase_ranges(self.rollout.spec, MEMBERS)[order.phase]
        assert all(first <= position < end for position in changed)
        if phase.window is not None:
            assert all(_is_night(self.now, OFFSETS[each % len(OFFSETS)]) for each in changed)
        if phase.rate is not None:
            inside = [self.fleet.devices[each] for each in range(first, end)]
            offered = sorted(
                each.offered
                for each in inside
                if each.mode == phase.mode and each.offered is not None
            )
            begun, size = wave(phase.rate, len(offered) - len(changed))
            assert len(offered) <= begun + size
            firsts = [
                place for place in range(1, len(offered)) if wave(phase.rate, place)[0] == place
            ]
            for place in firsts:
                assert offered[place] - offered[place - 1] >= phase.rate.per_s

    def _check_completion(self) -> None:
        offered = [each for each in self.fleet.devices if each.mode == "serve"]
        assert offered
        assert not any(each.state == "differing" for each in offered)
        assert all(each.mode is None or each.mode == "serve" for each in self.fleet.devices)

    def _live(self) -> None:
        for device, fate in zip(self.fleet.devices, self.fates, strict=True):
            if device.state == "reverting":
                device.state = "reverted"
            elif device.state == "in_progress":
                is_shadow = device.mode == "shadow" and fate == "committed"
                device.state = "shadowing" if is_shadow else fate
            elif device.state == "waiting" and fate != "waiting":
                device.state = "in_progress"


def _is_night(now: float, offset: int | None) -> bool:
    """Say whether local time is inside the window, by the calendar of the standard library."""
    if offset is None:
        return True
    zone = dt.timezone(dt.timedelta(minutes=offset))
    local = dt.datetime.fromtimestamp(now, tz=zone)
    return local.hour >= 22 or local.hour < 5


@settings(max_examples=60)
@given(_specs(), st.lists(st.sampled_from(FATES), min_size=MEMBERS, max_size=MEMBERS))
def test_every_rollout_ends_or_asks_a_person(spec: RolloutSpec, fates: list[str]) -> None:
    """However devices end, it closes or pauses; a rollback then takes back whoever had an offer."""
    run = _Run(spec, fates)
    for _ in range(600):
        if run.rollout.standing.state in HALTED:
            break
        run.step()
    assert run.rollout.standing.state in HALTED
    if run.rollout.standing.state is not RolloutState.PAUSED:
        return
    view = run.fleet.view(run.rollout)
    run.follow(verbs.rollback(run.rollout, view, run.now, by="anna"))
    for _ in range(5):
        run.step()
    assert str(run.rollout.standing.state) == "rolled_back"
    assert {each.state for each in run.fleet.devices} <= {"planned", "reverted"}


def test_an_empty_phase_is_no_obstacle() -> None:
    """A count beyond the cohort adds nobody, and ends all the same."""
    text = (
        "{family: digits, release: '2', cohort: all,"
        " phases: [{count: 14, soak_s: 0}, {count: 90, soak_s: 0}]}"
    )
    run = _Run(parse(text), ["committed"] * MEMBERS)
    for _ in range(20):
        if run.rollout.standing.state not in HALTED:
            run.step()
    assert run.rollout.standing.state is RolloutState.COMPLETED


@given(
    st.integers(1, 50),
    st.sampled_from([1.0, 1.001, 1.1, 2.0, 10.0]),
    st.none() | st.integers(1, 200),
    st.integers(0, 5_000),
)
def test_waves_follow_one_another(
    devices: int, growth: float, devices_max: int | None, reached: int
) -> None:
    """The wave under way is the first one that is not full, as counted from the beginning."""
    rate = OfferRate(devices=devices, per_s=1.0, growth=growth, devices_max=devices_max)
    before, size = 0, float(min(devices, devices_max or devices))
    while before + int(size) <= reached:
        before += int(size)
        size = min(size * growth, devices_max or size * growth)
    assert wave(rate, reached) == (before, int(size))
