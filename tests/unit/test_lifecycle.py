"""The life of a deployment: the whole table, and power cuts at every point of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.deployment import lifecycle
from agent.deployment.lifecycle import Event, Record
from firmware_bundles.wire.messages import (
    Arm,
    DeploymentState,
    Fault,
    ModelReference,
    Order,
    Policy,
)

S = DeploymentState
OPEN = [state for state in S if state not in lifecycle.TERMINAL]
FAULT = Fault(code="test.fault", message="something went wrong")

TABLE = {
    S.FETCHING: (S.STAGING, S.FAILED),
    S.STAGING: (S.SELF_TESTING, S.FAILED),
    S.SELF_TESTING: (S.SHADOWING, S.FAILED),
    S.SHADOWING: (S.SWITCHING, S.FAILED),
    S.SWITCHING: (S.PROBATION, S.ROLLING_BACK),
    S.PROBATION: (S.COMMITTING, S.ROLLING_BACK),
    S.COMMITTING: (S.COMMITTED, S.COMMITTING),
    S.ROLLING_BACK: (S.ROLLED_BACK, S.ROLLING_BACK),
}


def record(
    state: DeploymentState = S.FETCHING, *, attempts_max: int = 3, attempts: int = 0
) -> Record:
    """A record in some state."""
    order = Order(
        family="digits",
        generation=7,
        model=ModelReference(path="digits/2/manifest.json", digest="a" * 64, length=100),
        rollout="r1",
        arm=Arm.CANDIDATE,
        policy=Policy(attempts_max=attempts_max),
    )
    begun = lifecycle.begin(order, slot="B", previous="A")
    return msgspec.structs.replace(begun, state=state, attempts=attempts)


@pytest.mark.parametrize("state", OPEN)
def test_done_and_error_lead_where_the_table_says(state: DeploymentState) -> None:
    """Each open state has one way on and one way out."""
    done, wrong = TABLE[state]
    assert lifecycle.advance(record(state), Event.DONE).state is done
    assert lifecycle.advance(record(state), Event.ERROR, FAULT).state is wrong


@pytest.mark.parametrize("event", list(Event))
@pytest.mark.parametrize("state", list(S))
def test_every_state_answers_every_event(state: DeploymentState, event: Event) -> None:
    """The table is total, and what has ended stays as it is."""
    before = record(state)
    after = lifecycle.advance(before, event, FAULT)
    assert isinstance(after.state, DeploymentState)
    assert (after == before) is (state in lifecycle.TERMINAL)


@pytest.mark.parametrize("state", OPEN)
def test_every_open_state_can_be_reached_and_can_end(state: DeploymentState) -> None:
    """No dead ends and no islands."""
    reached = {S.FETCHING}
    while more := {s for old in reached & TABLE.keys() for s in TABLE[old]} - reached:
        reached |= more
    assert state in reached
    ahead = {state}
    while more := {s for old in ahead & TABLE.keys() for s in TABLE[old]} - ahead:
        ahead |= more
    assert ahead & lifecycle.TERMINAL


@pytest.mark.parametrize("event", [Event.SUPERSEDED, Event.CANCELLED])
def test_what_ends_a_deployment_early_rolls_back_only_in_probation(event: Event) -> None:
    """Before the pointer moves it simply ends; after that the old model comes back first."""
    ends = {state: lifecycle.advance(record(state), event).state for state in OPEN}
    assert ends == {
        S.FETCHING: S.FAILED,
        S.STAGING: S.FAILED,
        S.SELF_TESTING: S.FAILED,
        S.SHADOWING: S.FAILED,
        S.SWITCHING: S.SWITCHING,
        S.PROBATION: S.ROLLING_BACK,
        S.COMMITTING: S.COMMITTING,
        S.ROLLING_BACK: S.ROLLING_BACK,
    }


def test_what_serves_already_is_committed_at_once() -> None:
    """A new generation of the serving model needs no download and no probation."""
    assert lifecycle.advance(record(), Event.ALREADY_SERVING).state is S.COMMITTED


@pytest.mark.parametrize(
    ("state", "end"),
    [(S.SELF_TESTING, S.FAILED), (S.SHADOWING, S.FAILED), (S.PROBATION, S.ROLLING_BACK)],
)
def test_the_third_unplanned_stop_ends_a_state(
    state: DeploymentState, end: DeploymentState
) -> None:
    """Twice the device goes on where it was; then the model is held to be the reason."""
    stopped = record(state)
    for _ in range(2):
        stopped = lifecycle.resume(stopped)
        assert stopped.state is state
    stopped = lifecycle.resume(stopped)
    assert stopped.state is end
    assert stopped.fault is not None


@pytest.mark.parametrize("state", list(S))
def test_an_orderly_stop_is_never_counted(state: DeploymentState) -> None:
    """However often a device is switched off properly, the model is not blamed."""
    stopped = record(state, attempts_max=1)
    for _ in range(50):
        stopped = lifecycle.resume(lifecycle.suspend(stopped, elapsed_s=1.0))
    assert stopped.state is state
    assert not lifecycle.is_looping(stopped)


@pytest.mark.parametrize(
    "state", [S.FETCHING, S.STAGING, S.SWITCHING, S.COMMITTING, S.ROLLING_BACK, S.COMMITTED]
)
def test_other_states_resume_unchanged(state: DeploymentState) -> None:
    """A download may be cut a thousand times."""
    assert lifecycle.resume(record(state)) == record(state)


@pytest.mark.parametrize("state", list(S))
def test_the_loop_guard_spares_what_only_retries(state: DeploymentState) -> None:
    """COMMITTING and ROLLING_BACK must finish, however long it takes."""
    worn = msgspec.structs.replace(record(state), persist_count=10_000)
    spared = lifecycle.TERMINAL | lifecycle.RETRYING
    assert lifecycle.is_looping(worn) is (state not in spared)
    assert not lifecycle.is_looping(record(state))


def test_the_first_fault_is_kept_to_the_end_and_success_has_none() -> None:
    """What went wrong first is the reason that is reported."""
    rolling = lifecycle.advance(record(S.PROBATION), Event.ERROR, FAULT)
    again = lifecycle.advance(rolling, Event.ERROR, Fault(code="x", message="later"))
    assert lifecycle.advance(again, Event.DONE).fault == FAULT
    committing = lifecycle.advance(record(S.COMMITTING), Event.ERROR, FAULT)
    assert lifecycle.advance(committing, Event.DONE).fault is None


@pytest.mark.parametrize("state", sorted(lifecycle.TERMINAL))
def test_only_a_person_takes_back_what_has_ended(state: DeploymentState) -> None:
    """Reverting is a rollback of the same generation, and can end only as one."""
    worn = msgspec.structs.replace(record(state), persist_count=27, attempts=2)
    back = lifecycle.revert(worn, slot="B", previous="A", fault=FAULT)
    assert (back.state, back.generation, back.fault) == (S.ROLLING_BACK, 7, FAULT)
    assert lifecycle.advance(back, Event.DONE).state is S.ROLLED_BACK
    with pytest.raises(ValueError, match="is rolling_back"):
        lifecycle.revert(back, slot="B", previous="A", fault=FAULT)


def test_what_serves_already_is_recorded_in_the_slot_that_serves() -> None:
    """The record of a committed deployment always names the slot with its model."""
    before = record()
    assert lifecycle.advance(before, Event.ALREADY_SERVING).slot == before.previous
    assert lifecycle.advance(before, Event.DONE).slot == before.slot


def test_a_record_survives_its_way_to_disk_and_back() -> None:
    """What is written is what is read."""
    before = lifecycle.suspend(record(S.PROBATION), elapsed_s=3.5)
    assert msgspec.json.decode(msgspec.json.encode(before), type=Record) == before


class Cut(Exception):
    """The power is gone."""


class Device:
    """A disk that survives cuts, and a shell that persists before it acts."""

    def __init__(self, start: Record, persists_max: int, data: st.DataObject) -> None:
        self.saved = start
        self.pointer = "old"
        self._persists_max = persists_max
        self._data = data
        self._cuts_left = 12

    def live(self) -> None:
        """Run until the deployment has ended, through any number of cuts."""
        while lifecycle.is_open(self.saved):
            try:
                self._run()
            except Cut:
                continue

    def _run(self) -> None:
        resumed = lifecycle.resume(self.saved)
        if resumed != self.saved:
            self._persist(resumed)
        while lifecycle.is_open(self.saved):
            event = self._work()
            self._may_cut()
            self._persist(lifecycle.advance(self.saved, event, FAULT))

    def _work(self) -> Event:
        state = self.saved.state
        self._may_cut()
        if state is S.SWITCHING:
            self.pointer = "new"
        if state is S.ROLLING_BACK:
            self.pointer = "old"
        if state in lifecycle.RETRYING and self._cuts_left == 0:
            return Event.DONE
        return self._data.draw(st.sampled_from([Event.DONE, Event.DONE, Event.ERROR]))

    def _persist(self, new: Record) -> None:
        self._may_cut()
        if lifecycle.is_looping(new, persists_max=self._persists_max):
            new = lifecycle.advance(new, Event.LOOP_DETECTED, FAULT)
        self.saved = new
        self._may_cut()

    def _may_cut(self) -> None:
        if self._cuts_left and self._data.draw(st.sampled_from([False, False, True])):
            self._cuts_left -= 1
            raise Cut


@settings(max_examples=300)
@given(attempts_max=st.integers(1, 2), persists_max=st.integers(1, 12), data=st.data())
def test_power_cuts_never_part_the_record_from_what_serves(
    attempts_max: int, persists_max: int, data: st.DataObject
) -> None:
    """Whatever fails and wherever the power goes: the new model serves if and only if COMMITTED."""
    device = Device(record(attempts_max=attempts_max), persists_max, data)
    device.live()
    assert (device.pointer == "new") is (device.saved.state is S.COMMITTED)
