"""What holds for every plan, whatever the fleet says."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts import verbs
from control_plane.rollouts.gate_specs import Gates, InstallsGate, LabelErrorsGate
from control_plane.rollouts.model import (
    Action,
    Counts,
    FleetView,
    LabelCounts,
    PhaseState,
    Plan,
    Rollout,
    RolloutState,
    Standing,
    arrange,
    phase_ends,
    phase_states,
)
from control_plane.rollouts.parsing import parse
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.planner import plan
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import ConflictError

MEMBERS = 40
_RATE = st.sampled_from([0.0, 0.1, 0.5, 1.0])
_SECONDS = st.sampled_from([0.0, 5.0, 60.0])
_COUNTS = (
    "waiting",
    "in_progress",
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
    phases = [
        PhaseSpec(count=size, soak_s=draw(_SECONDS), timeout_s=draw(_SECONDS) + 1) for size in sizes
    ]
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
        on_failure=draw(st.sampled_from(["rollback", "pause"])),
    )


@st.composite
def _rollouts(draw: st.DrawFn) -> Rollout:
    spec = draw(_specs())
    standing = Standing(
        state=draw(st.sampled_from(RolloutState)),
        phase=draw(st.integers(0, len(spec.phases) - 1)),
        phase_state=draw(st.sampled_from(PhaseState)),
        since=draw(st.floats(0, 200)),
        generation=draw(st.integers(1, 9)),
    )
    return Rollout(id="r", spec=spec, release_path="digits/2/manifest.json", standing=standing)


def _spread(draw: st.DrawFn, size: int) -> Counts:
    """Put `size` devices anywhere."""
    values: dict[str, Any] = {}
    left = size
    for name in _COUNTS:
        values[name] = draw(st.integers(0, left))
        left -= values[name]
    offered = sum(values[name] for name in _COUNTS[:6])
    stuck = draw(st.integers(0, offered))
    last = draw(st.none() | st.floats(0, 200)) if offered else None
    return Counts(planned=left, stuck=stuck, offered_first=last, offered_last=last, **values)


@st.composite
def _situations(draw: st.DrawFn) -> tuple[Rollout, FleetView, float]:
    rollout = draw(_rollouts())
    ends = phase_ends(rollout.spec, MEMBERS)
    sizes = [end - first for first, end in zip((0, *ends), ends, strict=False)]
    view = FleetView(
        phases=tuple(_spread(draw, size) for size in sizes),
        candidate=LabelCounts(labelled=draw(st.integers(0, 300)), wrong=draw(st.integers(0, 300))),
        control=LabelCounts(labelled=draw(st.integers(0, 300)), wrong=draw(st.integers(0, 300))),
        control_devices=draw(st.integers(0, MEMBERS)),
        members=MEMBERS,
    )
    return rollout, view, draw(st.floats(0, 400))


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
    assert before.phase <= after.phase <= before.phase + 1


@given(_situations())
def test_offers_stay_inside_the_running_phase(
    situation: tuple[Rollout, FleetView, float],
) -> None:
    """Nothing is offered beyond the phase, nor while paused, rolling back or closed."""
    rollout, view, _ = situation
    planned = plan(*situation)
    ends = (0, *phase_ends(rollout.spec, view.members))
    for order in planned.orders:
        assert order.phase == planned.next.phase
        assert order.end == ends[order.phase + 1]
        if order.action is Action.OFFER:
            assert order.first == ends[order.phase]
            assert planned.next.state is RolloutState.RUNNING
            assert planned.next.phase_state is PhaseState.OFFERING
        else:
            assert planned.next.state is RolloutState.ROLLING_BACK


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


_LEFT_ALONE = ("planned", "reverting", "reverted")


class _Fleet:
    """Devices of one rollout that do what a test drew for them, in the end."""

    def __init__(self, rollout: Rollout, fates: list[str]) -> None:
        self.rollout = rollout
        self.fates = fates
        self.states = ["planned"] * MEMBERS
        self.offered_at = [0.0] * MEMBERS
        self.ends = phase_ends(rollout.spec, MEMBERS)

    def view(self) -> FleetView:
        phases = []
        for first, end in zip((0, *self.ends), self.ends, strict=False):
            here = self.states[first:end]
            times = [self.offered_at[i] for i in range(first, end) if self.states[i] != "planned"]
            counts: dict[str, Any] = {state: here.count(state) for state in set(here)}
            last = max(times, default=None)
            phases.append(Counts(**counts, offered_first=last, offered_last=last))
        return FleetView(
            phases=tuple(phases), control_devices=self.states.count("planned"), members=MEMBERS
        )

    def follow(self, planned: Plan, now: float) -> None:
        """Store the decision, carry the orders out, and let every device go one step."""
        self.rollout = msgspec.structs.replace(self.rollout, standing=planned.next)
        going = {"waiting": "in_progress", "reverting": "reverted"}
        for index, state in enumerate(self.states):
            fate = self.fates[index]
            if state == "in_progress":
                self.states[index] = fate
            elif fate != "waiting" or state == "reverting":
                self.states[index] = going.get(state, state)
        for order in planned.orders:
            for index in range(order.first, order.end):
                if order.action is Action.OFFER and self.states[index] == "planned":
                    self.states[index], self.offered_at[index] = "waiting", now
                elif order.action is Action.REVERT and self.states[index] not in _LEFT_ALONE:
                    self.states[index] = "reverting"


@given(
    _specs(),
    st.lists(
        st.sampled_from(
            ["committed", "committed", "committed", "failed", "rolled_back", "waiting"]
        ),
        min_size=MEMBERS,
        max_size=MEMBERS,
    ),
)
def test_every_rollout_ends_or_asks_a_person(spec: RolloutSpec, fates: list[str]) -> None:
    """However the devices end, the rollout closes or pauses; a rollback then closes it."""
    rollout = Rollout(id="r", spec=spec, release_path="p", standing=Standing())
    fleet, now = _Fleet(rollout, fates), 0.0
    halted = (RolloutState.PAUSED, RolloutState.COMPLETED, RolloutState.ROLLED_BACK)
    for _ in range(1_000):
        if fleet.rollout.standing.state in halted:
            break
        now += 1.0
        fleet.follow(plan(fleet.rollout, fleet.view(), now), now)
    state = fleet.rollout.standing.state
    assert state in halted
    if state is RolloutState.COMPLETED:
        assert set(fleet.states) <= {"planned", *fates}
    if state is RolloutState.PAUSED:
        fleet.follow(verbs.rollback(fleet.rollout, fleet.view(), now, by="anna"), now)
        for _ in range(10):
            fleet.follow(plan(fleet.rollout, fleet.view(), now), now)
        assert fleet.rollout.standing.state is RolloutState.ROLLED_BACK
        assert set(fleet.states) <= {"planned", "reverted"}


@given(_specs(), st.integers(1, 2_000))
def test_phases_nest(spec: RolloutSpec, members: int) -> None:
    """No phase ends before an earlier one, none beyond the cohort."""
    ends = phase_ends(spec, members)
    assert list(ends) == sorted(ends)
    assert ends[-1] <= members


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


def test_an_empty_phase_is_no_obstacle() -> None:
    """A count beyond the cohort adds nobody, and ends all the same."""
    text = (
        "{family: digits, release: '2', cohort: all,"
        " phases: [{count: 40, soak_s: 0}, {count: 90, soak_s: 0}]}"
    )
    rollout = Rollout(id="r", spec=parse(text), release_path="p", standing=Standing())
    fleet = _Fleet(rollout, ["committed"] * MEMBERS)
    for now in range(20):
        fleet.follow(plan(fleet.rollout, fleet.view(), float(now)), float(now))
    assert fleet.rollout.standing.state is RolloutState.COMPLETED
