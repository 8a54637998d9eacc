"""What holds for every plan, whatever the fleet says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts import verbs
from control_plane.rollouts.device_policy import DevicePolicy, DeviceShadow
from control_plane.rollouts.gate_specs import Gates, InstallsGate, LabelErrorsGate
from control_plane.rollouts.model import (
    Action,
    Approval,
    Counts,
    FleetView,
    LabelCounts,
    PhaseState,
    Rollout,
    RolloutState,
    Standing,
    phase_ends,
    phase_ranges,
    phase_states,
)
from control_plane.rollouts.phase_specs import OfferRate, PhaseSpec
from control_plane.rollouts.planner import plan
from control_plane.rollouts.spec import HoldOut, RolloutBudgets, RolloutSpec
from firmware_bundles.errors import ConflictError
from support.device_order import arrange

MEMBERS = 40
_RATE = st.sampled_from([0.0, 0.1, 0.5, 1.0])
_SECONDS = st.sampled_from([0.0, 5.0, 60.0])
_OFFSETS = (None, -420, 0, 540)
_COUNTS = (
    "waiting",
    "in_progress",
    "shadowing",
    "committed",
    "differing",
    "failed",
    "rolled_back",
    "reverting",
    "reverted",
    "superseded",
)


@st.composite
def _specs(draw: st.DrawFn) -> RolloutSpec:
    sizes = sorted(draw(st.sets(st.integers(1, MEMBERS), min_size=1, max_size=4)))
    phases = [_phase(draw, size) for size in sizes]
    if draw(st.booleans()):
        phases.insert(0, PhaseSpec(count=draw(st.integers(1, MEMBERS)), mode="shadow"))
    labels = LabelErrorsGate(
        margin=draw(_RATE),
        labels_min=draw(st.sampled_from([1, 100])),
        deadline_s=draw(_SECONDS),
        error_rate_max=draw(st.none() | _RATE),
    )
    installs = InstallsGate(
        failed_share_max=draw(_RATE),
        silent_share_max=draw(_RATE),
        finished_min=draw(st.integers(1, 5)),
    )
    return RolloutSpec(
        family="digits",
        release="2",
        cohort="all",
        phases=tuple(phases),
        gates=Gates(installs=installs, label_errors=labels if draw(st.booleans()) else None),
        on_failure=draw(st.sampled_from(["rollback", "rollback_phase", "pause"])),
        hold_out=draw(st.none() | st.builds(HoldOut, count=st.integers(1, MEMBERS))),
        budgets=RolloutBudgets(bytes_max=draw(st.sampled_from([None, 1_000]))),
        policy=DevicePolicy(shadow=DeviceShadow(share=1.0)),
    )


def _phase(draw: st.DrawFn, size: int) -> PhaseSpec:
    return PhaseSpec(
        count=size,
        soak_s=draw(_SECONDS),
        timeout_s=draw(_SECONDS) + 1,
        approval=draw(st.integers(0, 4)) == 0,
        window=draw(st.sampled_from([None, None, "22:00-05:00", "sat,sun 09:00-12:00"])),
        rate=draw(
            st.none()
            | st.builds(
                OfferRate,
                devices=st.integers(1, 5),
                per_s=st.sampled_from([1.0, 3_600.0]),
                growth=st.sampled_from([1.0, 1.5, 3.0]),
                devices_max=st.none() | st.integers(1, 9),
            )
        ),
    )


@st.composite
def _rollouts(draw: st.DrawFn) -> Rollout:
    spec = draw(_specs())
    standing = Standing(
        state=draw(st.sampled_from(RolloutState)),
        phase=draw(st.integers(0, len(spec.course()) - 1)),
        phase_state=draw(st.sampled_from(PhaseState)),
        since=draw(st.floats(0, 200)),
        generation=draw(st.integers(1, 9)),
    )
    approvals = tuple(
        Approval(phase=phase, by="ben", at=0.0) for phase in draw(st.sets(st.integers(0, 6)))
    )
    return Rollout(
        id="r",
        spec=spec,
        release_path="digits/2/manifest.json",
        standing=standing,
        approvals=approvals,
    )


def _spread(draw: st.DrawFn, size: int) -> Counts:
    """Put `size` devices anywhere."""
    values: dict[str, Any] = {}
    left = size
    for name in _COUNTS:
        values[name] = draw(st.integers(0, left))
        left -= values[name]
    offered = sum(values[name] for name in _COUNTS[:7])
    stuck = draw(st.integers(0, offered))
    last = draw(st.none() | st.floats(0, 200)) if offered else None
    mirroring = draw(st.integers(0, left))
    return Counts(
        planned=left,
        stuck=stuck,
        mirroring=mirroring,
        offered_first=last,
        offered_last=last,
        unfinished_first=last,
        **values,
    )


@st.composite
def _situations(draw: st.DrawFn) -> tuple[Rollout, FleetView, float]:
    rollout = draw(_rollouts())
    ranges = phase_ranges(rollout.spec, MEMBERS)
    view = FleetView(
        phases=tuple(_spread(draw, end - first) for first, end in ranges),
        candidate=LabelCounts(labelled=draw(st.integers(0, 300)), wrong=draw(st.integers(0, 300))),
        control=LabelCounts(labelled=draw(st.integers(0, 300)), wrong=draw(st.integers(0, 300))),
        control_devices=draw(st.integers(0, MEMBERS)),
        members=MEMBERS,
        bytes=draw(st.integers(0, 2_000)),
        offsets=tuple((offset, 1) for offset in draw(st.sets(st.sampled_from(_OFFSETS)))),
    )
    return rollout, view, draw(st.floats(0, 400_000))


@given(_situations())
def test_a_plan_is_total_and_deterministic(situation: tuple[Rollout, FleetView, float]) -> None:
    """Every situation has a plan with a reason, the same plan each time."""
    planned = plan(*situation)
    assert planned == plan(*situation)
    assert planned.why
    assert all(sentence.strip() for sentence in planned.why)


@given(_situations())
def test_a_decision_is_one_generation(situation: tuple[Rollout, FleetView, float]) -> None:
    """What is decided has the next generation; what is not decided has no difference at all."""
    before, after = situation[0].standing, plan(*situation).next
    assert after == before or after.generation == before.generation + 1
    assert situation[0].watched <= after.phase <= before.phase + 1


@given(_situations())
def test_offers_stay_inside_the_running_phase(
    situation: tuple[Rollout, FleetView, float],
) -> None:
    """Nothing is offered beyond the phase, nor while paused, rolling back or closed.

    Whoever has the release goes back whatever the phase: one that awaits approval has begun.
    """
    rollout, view, _ = situation
    planned = plan(*situation)
    ranges = phase_ranges(rollout.spec, view.members)
    for order in planned.orders:
        if order.action is Action.OFFER:
            assert order.phase <= planned.next.phase
            assert (order.first, order.end) == ranges[order.phase]
            assert planned.next.state is RolloutState.RUNNING
            assert planned.next.phase_state is PhaseState.OFFERING
        else:
            assert planned.next.state in (
                RolloutState.ROLLING_BACK,
                RolloutState.ROLLING_BACK_PHASE,
            )


@given(_situations())
def test_success_is_never_assumed(situation: tuple[Rollout, FleetView, float]) -> None:
    """Completed means that no device contradicts; rolled back, that nobody is still away."""
    rollout, view, _ = situation
    after = plan(*situation).next
    if after.state is rollout.standing.state:
        return
    seen = view.phases[: after.phase + 1]
    if after.state is RolloutState.COMPLETED:
        assert sum(counts.differing for counts in view.phases) == 0
        assert sum(counts.finished for counts in seen) > 0
    if after.state is RolloutState.ROLLED_BACK:
        assert sum(counts.reverting + counts.revertible for counts in view.phases) == 0


@given(_situations(), st.sampled_from(sorted(verbs.VERBS)))
def test_an_ended_rollout_stays_ended(
    situation: tuple[Rollout, FleetView, float], verb: str
) -> None:
    """The planner never opens a closed rollout; only a person's rollback does."""
    rollout, view, now = situation
    if rollout.is_open:
        return
    planned = plan(rollout, view, now)
    assert (planned.next, planned.orders) == (rollout.standing, ())
    try:
        decided = verbs.VERBS[verb](rollout, view, now, by="anna")
    except ConflictError:
        return
    assert decided.next.state is RolloutState.ROLLING_BACK


@given(_specs(), st.integers(1, 2_000))
def test_phases_nest(spec: RolloutSpec, members: int) -> None:
    """Those that serve tile the cohort up to the hold-out; no shadow reaches beyond them."""
    ranges, course = phase_ranges(spec, members), spec.course()
    serving = [each for each, phase in zip(ranges, course, strict=True) if phase.mode == "serve"]
    assert [first for first, _ in serving] == [0, *(end for _, end in serving[:-1])]
    assert all(first <= end for first, end in ranges)
    assert max(end for _, end in ranges) == serving[-1][1] <= members
    if spec.hold_out is not None:
        assert serving[-1][1] == members
        assert serving[-1][0] <= members - min(spec.hold_out.count or 0, members)


@given(st.integers(1, 100), st.integers(1, 100_000))
def test_a_share_is_exact(percent: int, members: int) -> None:
    """A share reaches the smallest number of devices that is not below it, as written."""
    phase = PhaseSpec(share=percent / 100)
    spec = RolloutSpec(family="digits", release="2", cohort="all", phases=(phase,))
    assert phase_ends(spec, members) == (-(-percent * members // 100),)


@given(st.sets(st.integers(0, 10_000), max_size=50), st.text(max_size=5))
def test_the_order_of_devices_is_settled_by_ids(numbers: set[int], rollout_id: str) -> None:
    """However the members are listed, each has the same place."""
    devices = [f"device-{number}" for number in numbers]
    placed = arrange(rollout_id, devices)
    assert sorted(placed) == sorted(devices)
    assert arrange(rollout_id, [*reversed(devices), *devices]) == placed


def test_the_order_differs_by_rollout() -> None:
    """Not the same devices go first each time."""
    devices = [f"device-{number}" for number in range(100)]
    assert arrange("one", devices) != arrange("two", devices)


def test_phases_before_the_present_one_have_passed() -> None:
    """Where each phase stands follows from the present one."""
    standing = Standing(phase=1, phase_state=PhaseState.SOAKING)
    assert phase_states(standing, 4) == ("passed", "soaking", "pending", "pending")
