"""state.db: what is written is there after a restart, and damage is noticed, never served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent import core
from agent.children import Children
from agent.deployment import lifecycle
from agent.deployment.lifecycle import Event
from agent.store import state_schema
from agent.store.state import State
from firmware_bundles.errors import DeviceError, RollbackAttempt, StateDamaged
from firmware_bundles.limits import DETECTIONS_PER_REPORT_MAX
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire.messages import Arm, ModelReference, Order


def record(generation: int = 5) -> lifecycle.Record:
    """A deployment that has just begun."""
    order = Order(
        family="digits",
        generation=generation,
        model=ModelReference(path="digits/2/manifest.json", digest="b" * 64, length=10),
        rollout="r1",
        arm=Arm.CANDIDATE,
    )
    return lifecycle.begin(order, slot="B", previous=None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A prepared database."""
    path = tmp_path / "state.db"
    state_schema.prepare(path)
    state_schema.prepare(path)  # safe to repeat
    return path


@pytest.fixture
def state(path: Path) -> Iterator[State]:
    """The open database."""
    state = State.open(path)
    yield state
    state.close()


def test_a_record_is_there_after_a_restart(path: Path, state: State) -> None:
    """The newest record of a family, whole."""
    begun = record()
    state.save(begun)
    advanced = lifecycle.advance(begun, Event.DONE)
    state.save(advanced)
    again = State.open(path)
    assert again.records() == {"digits": advanced}
    again.close()


def test_a_generation_never_goes_back(state: State) -> None:
    """An older record does not overwrite a newer one."""
    state.save(record(9))
    state.save(record(5))
    assert state.records()["digits"].generation == 9


def test_detections_are_counted_by_code_and_bounded(state: State) -> None:
    """Each code once, with how often and when last, the newest first."""
    for number in range(DETECTIONS_PER_REPORT_MAX + 10):
        state.detect(f"test.code_{number}", "m" * 2000, float(number))
    state.detect("test.code_3", "again", 1000.0)
    found = state.detections()
    assert len(found) == DETECTIONS_PER_REPORT_MAX
    assert (found[0].code, found[0].count, found[0].message) == ("test.code_3", 2, "again")


def test_report_numbers_and_the_time_floor_only_rise(path: Path, state: State) -> None:
    """Over a restart too."""
    assert [state.next_report() for _ in range(3)] == [1, 2, 3]
    state.raise_time_floor(100.0)
    state.raise_time_floor(50.0)
    again = State.open(path)
    assert again.next_report() == 4
    assert again.time_floor() == 100.0
    again.close()


def marks(keys: tuple[str, ...] = ("k1",), **versions: int) -> dict[str, Mark]:
    """Marks that rest on the same keys."""
    return {role: Mark(version=version, keys=keys) for role, version in versions.items()}


def test_role_versions_do_not_go_back_and_a_refusal_changes_nothing(
    path: Path, state: State
) -> None:
    """All floors move together or none does, and a restart forgets none."""
    before = marks(root=1, timestamp=5, snapshot=5, digits=2)
    state.raise_floors(before)
    with pytest.raises(RollbackAttempt, match="digits"):
        state.raise_floors(marks(root=1, timestamp=6, snapshot=6, digits=1))
    again = State.open(path)
    assert again.floors() == before
    again.close()


def test_versions_may_begin_again_only_when_a_key_was_taken_away(state: State) -> None:
    """The owners' way out of a fast-forward attack."""
    state.raise_floors(marks(timestamp=2**30, snapshot=2**30))
    with pytest.raises(RollbackAttempt):
        state.raise_floors(marks(("k1", "k2"), timestamp=1, snapshot=1))
    state.raise_floors(marks(("k2",), timestamp=1, snapshot=1))
    assert state.floors() == marks(("k2",), timestamp=1, snapshot=1)


def test_floors_of_an_earlier_agent_are_kept(path: Path) -> None:
    """It did not note the keys: its versions stay where they are."""
    state = State.open(path)
    state._connection.execute("DROP TABLE floor_keys")
    state._connection.execute("INSERT INTO floor VALUES ('timestamp', 7)")
    state.close()
    state = State.open(path)
    assert state.floors() == marks((), timestamp=7)
    with pytest.raises(RollbackAttempt):
        state.raise_floors(marks(timestamp=6))
    state.raise_floors(marks(timestamp=7))
    state.close()


async def opened(path: Path) -> State:
    """Open a state as the core does."""
    children = Children(s_max=60)
    try:
        return await core.open_state(path, children)
    finally:
        await children.stop()


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 100])
def test_damage_is_noticed(path: Path, damage: bytes) -> None:
    """An empty or foreign file is StateDamaged; so is a missing one."""
    path.write_bytes(damage)
    with pytest.raises(StateDamaged):
        State.open(path)
    path.unlink()
    with pytest.raises(StateDamaged):
        State.open(path)


def test_a_record_that_cannot_be_read_is_damage(state: State) -> None:
    """A record of nobody's making."""
    state._connection.execute("INSERT INTO deployment VALUES ('digits', 1, '{}')")
    with pytest.raises(StateDamaged):
        state.records()


def test_a_state_with_an_unreadable_record_is_replaced_too(path: Path) -> None:
    """Else the core would end at each start, and the worker with it."""
    state = State.open(path)
    state._connection.execute("INSERT INTO deployment VALUES ('digits', 1, '{}')")
    state.close()

    state = asyncio.run(opened(path))
    assert state.is_damaged()
    assert state.records() == {}
    state.close()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_lost_state_is_replaced_and_marked(path: Path, is_there: bool) -> None:  # noqa: FBT001
    """The device goes on without activations, tells of it, and keeps the old file aside."""
    if is_there:
        path.write_bytes(b"garbage " * 1000)
    else:
        path.unlink()

    state = asyncio.run(opened(path))
    assert state.is_damaged()
    assert [each.code for each in state.detections()] == [StateDamaged.code]
    state.close()
    assert bool(list(path.parent.glob("state.db.damaged-*"))) is is_there


def test_a_slot_counts_the_models_it_held(state: State) -> None:
    """Committing the same model again is no new installation."""
    state.commit_slot(record(), 1.0)
    state.commit_slot(record(), 2.0)
    other = msgspec.structs.replace(
        record(), model=ModelReference(path="digits/3/manifest.json", digest="c" * 64, length=1)
    )
    state.commit_slot(other, 3.0)
    rows = state._connection.execute("SELECT digest, installed_count FROM slot").fetchall()
    assert rows == [("c" * 64, 2)]


def test_what_cannot_be_opened_now_is_no_damage(path: Path) -> None:
    """A full disk or missing rights pass: the state is tried again, and never set aside."""
    path.unlink()
    path.mkdir()  # stands for any file that SQLite cannot open
    with pytest.raises(DeviceError) as caught:
        State.open(path)
    assert not isinstance(caught.value, StateDamaged)

    async def open_state() -> None:
        async with asyncio.timeout(0.3):
            await opened(path)

    with pytest.raises(TimeoutError):
        asyncio.run(open_state())
    assert path.is_dir()
