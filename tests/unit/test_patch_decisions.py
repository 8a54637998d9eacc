"""Which patches are made, told of and taken: pure decisions on both sides."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from agent.deployment import patching
from control_plane.fleet.assignments import patched
from control_plane.releases import patch_plan
from control_plane.releases.patch_plan import Fleet
from control_plane.releases.registry import Release
from control_plane.store.patches import Pair, PatchRow
from firmware_bundles import limits
from firmware_bundles.manifest import FileEntry, Golden, Manifest, Tensor
from firmware_bundles.wire.messages import Arm, ModelReference, Order, PatchReference

TENSOR = Tensor(name="image", datatype="INT8", shape=(1,))
CHUNK = limits.CHUNK_BYTES_MAX


def digest(number: int) -> str:
    """Some digest."""
    return f"{number:064x}"


def release(number: int, *, family: str = "digits", is_withdrawn: bool = False) -> Release:
    """A release whose digest is its number."""
    return Release(
        path=f"{family}/{number}/manifest.json",
        family=family,
        version=str(number),
        number=number,
        digest=digest(number),
        length=900,
        is_withdrawn=is_withdrawn,
        published=0.0,
    )


def row(source: int, target: int, length: int = 10) -> PatchRow:
    """A patch that was made."""
    return PatchRow(
        digest(source), digest(target), "m", digest(0), digest(9), [digest(9)], length, 100, 0.0
    )


def pair(source: int, target: int) -> Pair:
    """Two releases."""
    return Pair(digest(source), digest(target))


def test_patches_lead_to_the_newest_release_from_what_runs() -> None:
    """Most devices first; what nobody runs has none."""
    releases = [release(number) for number in (1, 2, 3, 4)]
    fleet = Fleet({digest(1): 5, digest(3): 80, digest(4): 7}, set())
    plan = patch_plan.plan(releases, fleet, [], 1000)
    assert plan == patch_plan.Plan((pair(3, 4), pair(1, 4)), frozenset())


def test_an_older_release_that_devices_shall_run_is_a_target_too() -> None:
    """Never downwards: going back, the former model is in the other slot."""
    releases = [release(number) for number in (1, 2, 3)]
    plan = patch_plan.plan(releases, Fleet({digest(1): 1, digest(3): 9}, {digest(2)}), [], 1000)
    assert set(plan.make) == {pair(1, 2), pair(1, 3)}


def test_a_withdrawn_release_is_no_target_but_a_source() -> None:
    """Devices that run it are those that have to leave it."""
    releases = [release(1), release(2, is_withdrawn=True), release(3)]
    fleet = Fleet({digest(1): 2, digest(2): 1}, {digest(2)})
    plan = patch_plan.plan(releases, fleet, [row(1, 2)], 1000)
    assert set(plan.make) == {pair(1, 3), pair(2, 3)}
    assert plan.drop == {pair(1, 2)}


def test_what_no_device_needs_any_more_is_dropped() -> None:
    """As soon as the last one moved on."""
    plan = patch_plan.plan([release(1), release(2)], Fleet({digest(2): 3}, set()), [row(1, 2)], 9)
    assert plan == patch_plan.Plan((), frozenset({pair(1, 2)}))


@given(
    running=st.dictionaries(st.integers(1, 9), st.integers(1, 50), max_size=9),
    wanted=st.sets(st.integers(1, 9), max_size=9),
    withdrawn=st.sets(st.integers(1, 9), max_size=3),
    made=st.sets(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=9),
    bytes_max=st.integers(0, 60),
)
def test_a_plan_that_is_carried_out_leaves_nothing_to_do(
    running: dict[int, int],
    wanted: set[int],
    withdrawn: set[int],
    made: set[tuple[int, int]],
    bytes_max: int,
) -> None:
    """And keeps to its caps, whatever the fleet looks like."""
    releases = [release(number, is_withdrawn=number in withdrawn) for number in range(1, 10)]
    fleet = Fleet({digest(k): v for k, v in running.items()}, {digest(k) for k in wanted})
    rows = [row(*each) for each in sorted(made)]
    for _ in range(50):
        plan = patch_plan.plan(releases, fleet, rows, bytes_max)
        rows = [each for each in rows if each.pair not in plan.drop]
        if not plan.make:
            break
        source, target = plan.make[0]
        rows.append(row(int(source, 16), int(target, 16)))
    assert patch_plan.plan(releases, fleet, rows, bytes_max) == patch_plan.Plan((), frozenset())
    targets = [each.target for each in rows]
    assert all(each.source < each.target for each in rows)
    assert all(targets.count(each) <= patch_plan.SOURCES_PER_TARGET_MAX for each in targets)
    assert not {digest(number) for number in withdrawn} & set(targets)


def reference(file: str = "model.tflite", source: int = 7, content: int = 8) -> PatchReference:
    """A patch of 100 bytes."""
    return PatchReference(file=file, source=digest(source), length=100, content=digest(content))


def facts(length: int = 2 * CHUNK + 1) -> Manifest:
    """A bundle whose model has three chunks, 1 to 3, the last of one byte."""
    entry = FileEntry(
        name="model.tflite",
        length=length,
        digest=digest(50),
        chunks=tuple(digest(number) for number in (1, 2, 3)),
    )
    return Manifest(
        family="digits",
        version="2",
        model="model.tflite",
        inputs=(TENSOR,),
        outputs=(TENSOR,),
        files=(entry,),
        golden=Golden(file="model.tflite", rows=1, runtime="test"),
    )


def choices(lacking: set[int], cost: int = 100) -> list[str]:
    """The contents of the patches that a device takes."""
    chosen = patching.choose(
        facts(),
        (reference(), reference(content=9), reference("other.bin"), reference(source=70)),
        lacking={digest(number) for number in lacking},
        sources={digest(7): Path("m")},
        costs={digest(8): cost, digest(9): cost + 1},
    )
    return [choice.patch.content for choice in chosen]


def test_a_device_takes_the_cheapest_patch_that_beats_what_it_lacks() -> None:
    """Not one that costs as much as the chunks do; not one whose source is not here."""
    assert choices({1, 2, 3}) == [digest(8)]
    assert choices({3}) == []
    assert choices({3}, cost=0) == [digest(8)]
    assert choices(set(), cost=0) == []
    assert choices({1}, cost=CHUNK) == []
    assert choices({1}, cost=CHUNK - 1) == [digest(8)]


def test_an_assignment_takes_no_more_patches_than_fit_it() -> None:
    """Those of the first families, and of each those that save most."""
    orders = [
        Order(
            family=f"f{number}",
            generation=1,
            model=ModelReference(path="f/1/manifest.json", digest=digest(1), length=1),
            rollout="r",
            arm=Arm.CANDIDATE,
        )
        for number in range(limits.FAMILIES_PER_DEVICE_MAX)
    ]
    found = {order.family: [reference()] * 6 for order in orders}
    counts = [len(order.patches or ()) for order in patched(orders, found)]
    assert sum(counts) == limits.PATCHES_PER_ASSIGNMENT_MAX
    assert max(counts) == limits.PATCHES_PER_ORDER_MAX
    assert patched(orders, {}) == orders
