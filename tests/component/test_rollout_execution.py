"""Rollouts on a real database: counts by signed report, orders, and executors that race or die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from control_plane.fleet.selectors import Selector
from control_plane.rollouts import verbs
from control_plane.rollouts.executor import REMIND_S, SHARE_OF_TIME, Executor
from control_plane.rollouts.model import Action, Counts, FleetView, Order, Rollout, RolloutState
from control_plane.rollouts.planner import plan
from control_plane.rollouts.statistics import Arm
from control_plane.store.database import Database
from control_plane.store.label_sums import HISTORY_S
from control_plane.store.rollouts import Rollouts
from firmware_bundles.errors import BrokerUnreachable, ConflictError, NotFound
from support.rollout_fleet import RowFleet, digest, rollout

SPEC = """
family: digits
release: "2"
cohort: all
phases:
  - {share: 0.25, soak_s: 5, timeout_s: 60}
  - {share: 1.0, soak_s: 5, timeout_s: 60}
gates:
  label_errors: {margin: 0.1, labels_min: 50, deadline_s: 30}
probation_s: 1
"""
QUICK = """
family: digits
release: "2"
cohort: all
phases: [{share: 1.0, soak_s: 0}]
"""


class Clock:
    """Time as a test has it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class World:
    """A fleet, its rollouts, and one executor."""

    def __init__(self, folder: Path) -> None:
        self.fleet = RowFleet(folder, size=8)
        self.rollouts = Rollouts(self.fleet.database)
        self.clock = Clock()
        self.told: list[str] = []
        self.executor = Executor(self.rollouts, self.told.extend, self.clock)

    def start(self, text: str = SPEC, rollout_id: str = "example") -> None:
        """Create a rollout over all devices."""
        wanted = msgspec.structs.replace(rollout(text, rollout_id), created=self.clock.now)
        self.rollouts.create(wanted, Selector())

    def tick(self, seconds: float = 1.0) -> Rollout:
        """Let time pass, and the executor act."""
        self.clock.now += seconds
        self.executor.tick()
        return self.rollouts.get("example")

    def counts(self, phase: int = 0) -> Counts:
        """Return the counts of a phase."""
        return self.rollouts.view(self.rollouts.get("example")).phases[phase]

    def decide(self, verb: verbs.Verb) -> None:
        """Decide as a person."""
        found = self.rollouts.get("example")
        decided = verb(found, self.rollouts.view(found), self.clock.now, by="anna")
        self.rollouts.save(found, decided, self.clock.now)

    def label(self, version: str, devices: Sequence[str], wrong: int) -> None:
        """Let 100 labels come for each of the devices."""
        for device_id in devices:
            self.fleet.label(device_id, version, labelled=100, wrong=wrong, at=self.clock.now)


@pytest.fixture
def empty_world(tmp_path: Path) -> Iterator[World]:
    """Eight devices that serve nothing yet."""
    made = World(tmp_path)
    yield made
    made.fleet.database.close()


@pytest.fixture
def world(empty_world: World) -> World:
    """Eight devices that serve version 1."""
    empty_world.fleet.serve("1")
    return empty_world


def test_a_better_release_reaches_all_in_phases(world: World) -> None:
    """Phases nest, each soaks, and completion rests on what the devices themselves said."""
    world.start()
    world.tick()
    first = world.fleet.offered("2")
    assert len(first) == 2
    assert set(world.told) == first
    assert world.counts() == Counts(
        waiting=2, offered_first=1001.0, offered_last=1001.0, unfinished_first=1001.0
    )
    world.fleet.obey()
    assert world.tick().standing.phase_state == "soaking"
    world.label("2", sorted(first), wrong=2)
    world.label("1", sorted(set(world.fleet.devices) - first), wrong=10)
    assert world.tick(5).standing.phase == 1
    assert world.fleet.offered("2") == set(world.fleet.devices)
    world.fleet.obey()
    world.tick()
    assert world.tick(5).standing.state == "completed"
    assert world.counts(1).committed == 6
    assert sorted(world.told) == world.fleet.devices


def test_a_bad_release_is_taken_back_by_signed_report_only(world: World) -> None:
    """Worse labels stop the first phase; it has ended when its devices say that they are back."""
    world.start()
    world.tick()
    first = sorted(world.fleet.offered("2"))
    world.fleet.obey()
    world.tick()
    world.label("2", first, wrong=60)
    world.label("1", sorted(set(world.fleet.devices) - set(first)), wrong=10)
    assert world.tick().standing.state == "rolling_back"
    assert world.fleet.offered("2") == set()
    assert {world.fleet.wants(each)["arm"] for each in first} == {"rollback"}
    assert world.tick(3_600).standing.state == "rolling_back"
    world.fleet.obey(first[:1])
    assert world.tick().standing.state == "rolling_back"
    world.fleet.obey()
    assert world.tick().standing.state == "rolled_back"
    assert {world.fleet.serving(each) for each in first} == {digest("1")}


def test_labels_count_by_arm_and_since_the_phase_began(world: World) -> None:
    """Old labels, labels of other models and labels of devices without part are not counted."""
    first_before = world.fleet.devices
    world.label("1", first_before, wrong=100)
    world.start()
    world.tick()
    offered = sorted(world.fleet.offered("2"))
    others = sorted(set(world.fleet.devices) - set(offered))
    world.clock.now += 1
    world.label("1", offered, wrong=7)
    world.label("2", offered[:1], wrong=3)
    world.label("1", others[:2], wrong=5)
    world.label("2", others[2:3], wrong=9)
    view = world.rollouts.view(world.rollouts.get("example"))
    assert (view.candidate.labelled, view.candidate.wrong) == (100, 3)
    assert (view.control.labelled, view.control.wrong) == (200, 10)
    assert (view.control_devices, view.members) == (6, 8)


def test_labels_are_summed_by_device_next_to_the_day_before(world: World) -> None:
    """A device's share of wrong labels stands next to its own before, or to the average one."""
    devices = world.fleet.devices
    world.clock.now = 200_000.0
    world.label("1", devices, wrong=99)
    world.clock.now += HISTORY_S
    for wrong, device_id in enumerate(devices[1:], start=1):
        world.label("1", [device_id], wrong=wrong)
    world.clock.now += 1
    world.start()
    world.tick()
    offered = world.fleet.offered("2")
    world.clock.now += 1
    before = {device: place / 100 for place, device in enumerate(devices)}
    before[devices[0]] = sum(before.values()) / 7
    since = {device: (10 + 3 * place) / 100 for place, device in enumerate(devices)}
    for device, share in since.items():
        version = "2" if device in offered else "1"
        world.label(version, [device], wrong=round(100 * share))
    view = world.rollouts.view(world.rollouts.get("example"))
    others = set(devices) - set(offered)
    for arm, members in ((view.candidate, sorted(offered)), (view.control, sorted(others))):
        wanted = Arm.of(
            [since[each] for each in members],
            [before[each] for each in members],
            100 * len(members),
        )
        assert arm.by_device == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("state", "serving", "field"),
    [
        ("fetching", "1", "in_progress"),
        ("probation", "2", "in_progress"),
        ("committed", "2", "committed"),
        ("committed", "1", "differing"),
        ("committed", None, "differing"),
        ("failed", "1", "failed"),
        ("failed", "2", "failed"),
        ("rolled_back", "1", "rolled_back"),
        (None, "2", "in_progress"),
    ],
)
def test_a_device_counts_as_it_said_signed(
    world: World, state: str | None, serving: str | None, field: str
) -> None:
    """Only the report of this very generation counts, and committed only with the digest."""
    world.start()
    world.tick()
    device_id = min(world.fleet.offered("2"))
    generation = world.fleet.wants(device_id)["generation"]
    said = digest(serving) if serving else None
    world.fleet.report(device_id, generation=generation - 1, state="committed", serving=said)
    assert world.counts().waiting == 2
    world.fleet.report(device_id, generation=generation, state=state, serving=said)
    assert getattr(world.counts(), field) == 1
    assert world.counts().waiting == 1


def test_a_device_without_a_previous_model_stays(empty_world: World) -> None:
    """Who had nothing before has nothing to go back to: it is counted so and left alone."""
    world = empty_world
    world.fleet.serve("1", world.fleet.devices[:6])
    world.start(QUICK)
    world.tick()
    world.fleet.obey()
    world.tick(0)
    world.decide(verbs.rollback)
    assert world.counts().stuck == 2
    world.tick()
    world.fleet.obey()
    assert world.tick().standing.state == "rolled_back"
    assert len(world.fleet.offered("1")) == 6
    assert world.fleet.offered("2") == set(world.fleet.devices[6:])


def test_the_way_back_is_what_the_device_served(world: World) -> None:
    """The previous model is the reported one, unless the device was already sent back elsewhere."""
    world.start(QUICK)
    world.tick()
    world.fleet.obey(world.fleet.devices[:4])
    world.decide(verbs.rollback)
    world.tick()
    world.decide(verbs.abort)
    world.start(QUICK.replace('"2"', '"3"'), "next")
    world.tick()
    rows = world.rollouts.deployments(world.rollouts.get("next"))
    assert {row.previous_path for row in rows} == {"digits/1/manifest.json"}


def test_only_one_open_rollout_has_a_device(world: World) -> None:
    """Two plans for one device would fight; a closed rollout holds nobody."""
    world.start()
    with pytest.raises(ConflictError, match="open rollout example"):
        world.start(rollout_id="second")
    with pytest.raises(NotFound):
        world.rollouts.get("second")
    with pytest.raises(ConflictError, match="already a rollout"):
        world.start()
    world.decide(verbs.abort)
    world.start(rollout_id="second")
    with pytest.raises(ConflictError, match="open rollout second"):
        world.decide(verbs.rollback)


def test_a_later_rollout_is_not_taken_back_with_an_earlier_one(world: World) -> None:
    """Rolling an ended rollout back leaves devices alone that something newer has changed."""
    world.start(QUICK)
    world.tick()
    world.fleet.obey()
    world.tick()
    world.tick()
    world.start(QUICK.replace('"2"', '"3"'), "next")
    world.tick()
    world.fleet.obey()
    world.tick()
    world.tick()
    assert world.rollouts.get("next").standing.state == "completed"
    world.decide(verbs.rollback)
    assert world.tick().standing.state == "rolled_back"
    assert world.fleet.offered("3") == set(world.fleet.devices)
    assert world.counts().superseded == 8


def test_every_decision_is_kept_with_its_reasons(world: World) -> None:
    """The decisions tell the whole story, in order, with what the gates found."""
    world.start(QUICK)
    world.tick()
    world.fleet.obey()
    world.tick()
    world.tick()
    decisions = world.rollouts.decisions("example")
    assert [(each.generation, each.state, each.phase_state) for each in decisions] == [
        (1, "running", "pending"),
        (2, "running", "offering"),
        (3, "running", "soaking"),
        (4, "completed", "passed"),
    ]
    assert decisions[0].why == ["created by anna"]
    assert decisions[-1].gates[0]["verdict"] == "pass"


def test_an_executor_that_dies_after_storing_leaves_its_orders_to_the_next(world: World) -> None:
    """Stored and not done: the next plan orders it again, however late, and nobody timed out."""
    world.start()
    found = world.rollouts.get("example")
    decided = plan(found, world.rollouts.view(found), world.clock.now)
    world.rollouts.save(found, decided, world.clock.now)
    assert world.fleet.offered("2") == set()
    assert world.tick(10_000).standing.phase_state == "offering"
    assert len(world.fleet.offered("2")) == 2


def test_an_executor_that_dies_before_telling_reminds(world: World) -> None:
    """Devices that were never told, because the process or the broker died, are told later."""

    def broken(_devices: Sequence[str]) -> None:
        raise BrokerUnreachable("the broker is away")

    world.start()
    Executor(world.rollouts, broken, world.clock).tick()
    assert len(world.fleet.offered("2")) == 2
    world.tick()
    assert set(world.told) == world.fleet.offered("2")
    world.told.clear()
    world.tick(REMIND_S / 2)
    assert world.told == []
    world.fleet.obey(sorted(world.fleet.offered("2"))[:1])
    world.tick(REMIND_S / 2)
    assert len(world.told) == 1


def test_an_order_done_twice_is_done_once(world: World) -> None:
    """A repeated order changes no generation and forgets no way back."""
    world.start()
    found = world.tick()
    before = {each: world.fleet.wants(each) for each in world.fleet.devices}
    again = Order(phase=0, first=0, end=2, action=Action.OFFER)
    assert world.rollouts.carry_out(found, again, world.clock.now) == []
    assert {each: world.fleet.wants(each) for each in world.fleet.devices} == before


def test_no_order_of_an_older_decision_is_done(world: World) -> None:
    """Whoever decided in between, a person above all, wins over orders still on their way."""
    world.start()
    found = world.rollouts.get("example")
    world.decide(verbs.abort)
    order = Order(phase=0, first=0, end=2, action=Action.OFFER)
    with pytest.raises(ConflictError):
        world.rollouts.carry_out(found, order, world.clock.now)
    decided = plan(found, world.rollouts.view(found), world.clock.now)
    with pytest.raises(ConflictError):
        world.rollouts.save(found, decided, world.clock.now)
    assert world.tick().standing.state is RolloutState.CANCELLED
    assert world.fleet.offered("2") == set()


def test_executors_that_race_decide_once(world: World) -> None:
    """Four executors at once: each decision is stored once, each device offered to once."""
    world.start()
    executors = [Executor(world.rollouts, world.told.extend, world.clock) for _ in range(4)]
    for _ in range(4):
        world.clock.now += 5
        _together([each.tick for each in executors])
        world.fleet.obey()
        world.clock.now += 1
        offered = sorted(world.fleet.offered("2"))
        world.label("2", offered, wrong=0)
        world.label("1", sorted(set(world.fleet.devices) - set(offered)), wrong=0)
    world.clock.now += 6
    _together([each.tick for each in executors])
    decisions = world.rollouts.decisions("example")
    assert [each.generation for each in decisions] == list(range(1, len(decisions) + 1))
    assert decisions[-1].state == "completed"
    # Offered twice would be one generation later; told twice is harmless.
    wants = [world.fleet.wants(each) for each in world.fleet.devices]
    assert [each["generation"] for each in wants] == [int(each["changed"]) for each in wants]
    assert set(world.told) == set(world.fleet.devices)


def _together(calls: Sequence[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_rollout_that_cannot_be_read_holds_up_no_other(world: World) -> None:
    """Whatever is wrong with one rollout, the executor goes on with the next."""
    world.start(rollout_id="broken")
    with world.fleet.database.transaction() as connection:
        connection.exec_driver_sql("update rollout set phase = 7, family = 'other'")
    world.start()
    assert world.tick().standing.phase_state == "offering"
    assert world.told


class DearRollouts(Rollouts):
    """Rollouts of a fleet so large that it takes a while to count it."""

    def __init__(self, database: Database, clock: Clock, seconds: float) -> None:
        super().__init__(database)
        self._clock = clock
        self._seconds = seconds
        self.views = 0

    def view(self, wanted: Rollout) -> FleetView:
        """Count, and let time pass."""
        self.views += 1
        self._clock.now += self._seconds
        return super().view(wanted)


def test_a_rollout_that_is_dear_to_count_rests_while_nothing_is_due(world: World) -> None:
    """Looks that find nothing to do take a share of the time, however large the fleet is."""
    rollouts = DearRollouts(world.fleet.database, world.clock, seconds=2.0)
    executor = Executor(rollouts, world.told.extend, world.clock)
    world.start()
    executor.tick()
    began, rollouts.views = world.clock.now, 0
    while world.clock.now < began + 100:
        world.clock.now += 0.5
        executor.tick()
    assert 8 <= rollouts.views <= 100 * SHARE_OF_TIME / 2


def test_a_decision_ends_the_rest(world: World) -> None:
    """What a person decides is acted on at the next tick, and a clock set back holds nobody up."""
    rollouts = DearRollouts(world.fleet.database, world.clock, seconds=2.0)
    executor = Executor(rollouts, world.told.extend, world.clock)
    world.start()
    executor.tick()
    executor.tick()
    rollouts.views = 0
    executor.tick()
    assert rollouts.views == 0
    world.decide(verbs.pause)
    executor.tick()
    assert rollouts.views == 1
    executor.tick()
    assert rollouts.views == 1
    world.clock.now -= 50
    executor.tick()
    assert rollouts.views == 2
