"""The values that planner, gates and store share: a rollout, what its fleet says, what comes next.

No progress is a state: progress is counted. Which positions a phase reaches is decided here too,
because planner, store and simulation have to agree on it; who stands at which, in `order`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Final

import msgspec

from control_plane.rollouts.evidence import Evidence
from control_plane.rollouts.gate_specs import Gates
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.spec import HoldOut, RolloutSpec
from control_plane.rollouts.statistics import Arm


class RolloutState(StrEnum):
    """Where a whole rollout stands."""

    RUNNING = "running"
    PAUSED = "paused"
    ROLLING_BACK = "rolling_back"
    ROLLING_BACK_PHASE = "rolling_back_phase"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"


OPEN_STATES: Final = frozenset(
    {
        RolloutState.RUNNING,
        RolloutState.PAUSED,
        RolloutState.ROLLING_BACK,
        RolloutState.ROLLING_BACK_PHASE,
    }
)


class PhaseState(StrEnum):
    """Where one phase stands: awaiting is for an approval, and the last two are terminal."""

    PENDING = "pending"
    AWAITING = "awaiting"
    OFFERING = "offering"
    SOAKING = "soaking"
    PASSED = "passed"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a gate says, worst first."""

    FAIL = "fail"
    ERROR = "error"
    INCONCLUSIVE = "inconclusive"
    PASS = "pass"  # noqa: S105 - a verdict, no password


class Action(StrEnum):
    """What an order does with the devices of its range."""

    OFFER = "offer"
    REVERT = "revert"


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Standing(_Value, frozen=True, kw_only=True):
    """What a decision changes.

    `since` is when the phase's present state began, or was resumed (Unix seconds).
    """

    state: RolloutState = RolloutState.RUNNING
    phase: int = 0
    phase_state: PhaseState = PhaseState.PENDING
    since: float = 0.0
    generation: int = 1


class Approval(_Value, frozen=True, kw_only=True):
    """Somebody's word that a phase, counted from 0, may begin; `at` in Unix seconds."""

    phase: int
    by: str
    at: float


class Joined(_Value, frozen=True, kw_only=True):
    """Devices that came later: they make no phase up to `phase` any larger.

    Those that make none larger, not even the last one, came after the end.
    """

    phase: int
    devices: int


class Rollout(_Value, frozen=True, kw_only=True):
    """One rollout as it is stored."""

    id: str
    spec: RolloutSpec
    release_path: str
    standing: Standing
    created: float = 0.0
    created_by: str = ""
    approvals: tuple[Approval, ...] = ()
    joined: tuple[Joined, ...] = ()

    @property
    def phase(self) -> PhaseSpec:
        """The present phase as it was described."""
        return self.spec.course()[self.standing.phase]

    @property
    def gates(self) -> Gates:
        """The gates that judge now: those of the phase that is watched."""
        return self.spec.course()[self.watched].gates.over(self.spec.gates)

    @property
    def watched(self) -> int:
        """The phase whose evidence is judged: the last one that made offers."""
        standing = self.standing
        is_before = standing.phase_state is PhaseState.AWAITING
        return max(standing.phase - is_before, 0)

    def approval(self, phase: int) -> Approval | None:
        """Return who let a phase begin; None while nobody did."""
        return next((each for each in self.approvals if each.phase == phase), None)

    @property
    def is_open(self) -> bool:
        """Whether the executor still has to look after it."""
        return self.standing.state in OPEN_STATES

    @property
    def later(self) -> int:
        """How many devices came after the end; they stand behind all others."""
        last = len(self.spec.course()) - 1
        return sum(each.devices for each in self.joined if each.phase >= last)


class Counts(_Value, frozen=True, kw_only=True):
    """How many devices of one phase stand where; each is in one of the fields before `stuck`.

    `waiting` said nothing yet of its offer; `shadowing` answers beside the serving model, as its
    phase wants; `differing` said committed, but serves another model by the same signed report, or
    was to stay in the shadow; `superseded` follows something newer than this rollout. `stuck`
    counts those among the offered ones that have no previous model to go back to, `mirroring` those
    among the planned ones that an earlier phase left in the shadow, `lost` the superseded ones that
    never had an offer. `unfinished_first` is the oldest offer whose end is not known.
    """

    planned: int = 0
    waiting: int = 0
    in_progress: int = 0
    shadowing: int = 0
    committed: int = 0
    differing: int = 0
    failed: int = 0
    rolled_back: int = 0
    reverting: int = 0
    reverted: int = 0
    superseded: int = 0
    stuck: int = 0
    mirroring: int = 0
    lost: int = 0
    offered_first: float | None = None
    offered_last: float | None = None
    unfinished_first: float | None = None

    @property
    def unfinished(self) -> int:
        """Devices with an offer whose end is not known."""
        return self.waiting + self.in_progress

    @property
    def finished(self) -> int:
        """Devices that said, signed, how their offer ended."""
        return self.committed + self.shadowing + self.broken

    @property
    def broken(self) -> int:
        """Devices that do not serve what they were offered."""
        return self.differing + self.failed + self.rolled_back

    @property
    def offered(self) -> int:
        """Devices whose offer stands."""
        return self.unfinished + self.finished

    @property
    def revertible(self) -> int:
        """Devices whose offer stands and that have a previous model to go back to."""
        return self.offered - self.stuck + self.mirroring

    @property
    def reached(self) -> int:
        """Devices that had their offer in this phase, whatever became of it, or never will."""
        return self.offered + self.reverting + self.reverted + self.superseded

    @property
    def had_offer(self) -> int:
        """Devices that had their offer in this phase, as the pace counts them."""
        return self.reached - self.lost


class LabelCounts(_Value, frozen=True, kw_only=True):
    """Labels that came for one arm since the phase began, and how many contradicted it.

    `by_device` sums the share of wrong labels of each device: x in the day before the rollout's
    first offer, z since the phase began.
    """

    labelled: int = 0
    wrong: int = 0
    by_device: Arm = Arm()


class FleetView(_Value, frozen=True, kw_only=True):
    """What the fleet's signed reports and labels say of one rollout now.

    A device counts in the phase that made its offer, or else will. `bytes` were fetched for the
    rollout. `offsets` tells of the planned devices of a phase with a window by how many minutes
    their local time is ahead of UTC, and how many they are; None stands for those that do not say.
    `control_devices` are at hand; with `is_control_away` there are some, but none of them is.
    `ended_bytes` are those of the devices that said how their offer ended. `later` counts the
    devices that came after the end, which are in no phase.
    """

    phases: tuple[Counts, ...]
    candidate: LabelCounts = LabelCounts()
    control: LabelCounts = LabelCounts()
    control_devices: int = 0
    is_control_away: bool = False
    members: int = 0
    later: Counts = Counts()
    bytes: int = 0
    ended_bytes: int = 0
    evidence: Evidence = Evidence()
    offsets: tuple[tuple[int | None, int], ...] = ()

    @property
    def has_control(self) -> bool:
        """Whether there are devices on another model; those that are away are missing, not none."""
        return self.control_devices > 0 or self.is_control_away

    @property
    def everybody(self) -> tuple[Counts, ...]:
        """The counts of all phases, and of the devices that came after the end."""
        return (*self.phases, self.later)


class Finding(_Value, frozen=True, kw_only=True):
    """What one gate found. Where it does not apply, `verdict` is None and the sentence says why.

    `left_s` is how long an inconclusive gate may wait before it pauses, once that time runs.
    """

    gate: str
    verdict: Verdict | None
    sentence: str
    value: float | None = None
    threshold: float | None = None
    samples: dict[str, int] = {}
    left_s: float | None = None


class Order(_Value, frozen=True, kw_only=True):
    """Do `action` with the devices at positions `first` to `end` (exclusive); twice is once.

    Of these at most `reached_max` have an offer of the phase afterwards, and only devices whose
    local time has one of the `offsets` (minutes) get one; None sets no limit.
    """

    phase: int
    first: int
    end: int
    action: Action
    reached_max: int | None = None
    offsets: tuple[int | None, ...] | None = None


class Plan(_Value, frozen=True, kw_only=True):
    """What comes next, what to do about it, and why: sentences for people.

    With `is_retry` devices that failed are to be offered to as if they never had been.
    """

    next: Standing
    why: tuple[str, ...]
    orders: tuple[Order, ...] = ()
    findings: tuple[Finding, ...] = ()
    is_retry: bool = False


def total(counts: Iterable[Counts], field: str) -> int:
    """Return the sum of one field, or property, over phases."""
    return sum(getattr(each, field) for each in counts)


def devices_of(count: int) -> str:
    """Return a number of devices as sentences have it."""
    return "1 device" if count == 1 else f"{count} devices"


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict; gates that do not apply have no say."""
    said = {finding.verdict for finding in findings}
    return next((verdict for verdict in Verdict if verdict in said), Verdict.PASS)


def held_out(spec: RolloutSpec, members: int) -> int:
    """Return how many of so many devices are held out as a control until the last phase passed."""
    return _size(spec.hold_out, members) if spec.hold_out else 0


def phase_ends(spec: RolloutSpec, members: int, joined: Sequence[Joined] = ()) -> tuple[int, ...]:
    """Return the position at which each phase of the course ends (exclusive).

    None that serves ends before an earlier one, none in shadow reaches beyond what serves in the
    end, and none but the hold-out's own reaches into the hold-out. Who joined later makes no phase
    larger that had begun by then.
    """
    course = spec.course()
    known = [
        members - sum(each.devices for each in joined if each.phase >= phase)
        for phase in range(len(course))
    ]
    sizes = [
        min(_size(phase, count), count - held_out(spec, count))
        for phase, count in zip(spec.phases, known, strict=False)
    ]
    serving = [phase.mode == "serve" for phase in spec.phases]
    served = max(size for size, is_serving in zip(sizes, serving, strict=True) if is_serving)
    ends: list[int] = []
    for size, is_serving in zip(sizes, serving, strict=True):
        before = [end for end, was in zip(ends, serving, strict=False) if was or not is_serving]
        ends.append(min(max([size, *before]), served))
    if len(course) > len(ends):
        ends.append(known[-1])
    return tuple(ends)


def phase_ranges(
    spec: RolloutSpec, members: int, joined: Sequence[Joined] = ()
) -> tuple[tuple[int, int], ...]:
    """Return the positions, first and end (exclusive), to which each phase of the course offers.

    One that serves begins where the last one that served ended, one in shadow beyond all before.
    """
    ends, ranges = phase_ends(spec, members, joined), []
    served = reached = 0
    for phase, end in zip(spec.course(), ends, strict=True):
        ranges.append((served if phase.mode == "serve" else reached, end))
        served = end if phase.mode == "serve" else served
        reached = max(reached, end)
    return tuple(ranges)


def stretches(rollout: Rollout, members: int) -> tuple[tuple[int, int, int], ...]:
    """Return the phase in which the devices of each run of positions count: phase, first, end.

    Those in the shadow now come before those where they will serve; beyond all it is -1, and one
    more than the last phase for the devices that came after the end.
    """
    ranges, course = phase_ranges(rollout.spec, members, rollout.joined), rollout.spec.course()
    serving = [phase for phase, each in enumerate(course) if each.mode == "serve"]
    asked = (*shadows_now(rollout), *serving)
    before_end = members - rollout.later
    cuts = sorted({0, before_end, *(cut for pair in ranges for cut in pair)})
    runs = [
        (
            next((p for p in asked if ranges[p][0] <= first < ranges[p][1]), -1),
            first,
            end,
        )
        for first, end in pairwise(cuts)
    ]
    return (*runs, (len(course), before_end, members)) if rollout.later else tuple(runs)


def joining_phase(rollout: Rollout) -> int | None:
    """Return the last phase that devices which come now do not make larger; None: nobody comes.

    The last phase of all takes them in while it makes offers; after that it is too late.
    """
    standing, last = rollout.standing, len(rollout.spec.course()) - 1
    if standing.state not in (RolloutState.RUNNING, RolloutState.PAUSED):
        return None
    match standing.phase_state:
        case PhaseState.PENDING | PhaseState.AWAITING:
            return standing.phase - 1
        case PhaseState.OFFERING:
            return min(standing.phase, last - 1)
        case PhaseState.SOAKING if standing.phase < last:
            return standing.phase
        case _:
            return None


def shadows_now(rollout: Rollout) -> tuple[int, ...]:
    """Return the phases whose devices are in the shadow now: none once a later one serves."""
    course, now = rollout.spec.course(), rollout.watched
    first = now + 1
    while first and course[first - 1].mode == "shadow":
        first -= 1
    return tuple(range(first, now + 1))


def offering_phase(rollout: Rollout, phases: Sequence[Counts]) -> int:
    """Return the phase whose devices get the offers that are made now.

    That is the present one, or an earlier one that does the same and has some again after a retry.
    """
    course, now = rollout.spec.course(), rollout.standing.phase
    again = (each for each in range(now) if course[each].mode == course[now].mode)
    return next((each for each in again if phases[each].planned), now)


def phase_states(standing: Standing, phases: int) -> tuple[PhaseState, ...]:
    """Return where each of the phases stands."""
    passed = (PhaseState.PASSED,) * standing.phase
    pending = (PhaseState.PENDING,) * (phases - standing.phase - 1)
    return (*passed, standing.phase_state, *pending)


def _size(part: PhaseSpec | HoldOut, members: int) -> int:
    if part.count is not None:
        return min(part.count, members)
    # A share of .1 of 30 devices is 3 of them, whatever binary fractions make of it.
    return math.ceil(round((part.share or 0.0) * members, 6))
