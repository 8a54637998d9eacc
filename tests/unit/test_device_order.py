"""The order of a rollout's devices: even over strata, and each of its beginnings like the whole."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from control_plane.rollouts import order
from support.device_order import arrange

NAMES = st.sets(st.integers(0, 400), min_size=1, max_size=60).map(
    lambda found: [f"d{number}" for number in sorted(found)]
)


@given(NAMES, st.data())
def test_each_beginning_has_its_share_of_every_stratum(
    devices: list[str], data: st.DataObject
) -> None:
    """However far a phase reaches, it has of each kind what the whole has, nearly to a device."""
    strata = {device: data.draw(st.sampled_from(["arm", "x86", "mips"])) for device in devices}
    placed = arrange("r", devices, strata)
    assert sorted(placed) == sorted(devices)
    sizes = Counter(strata.values())
    for reached in range(len(placed) + 1):
        seen = Counter(strata[device] for device in placed[:reached])
        for stratum, size in sizes.items():
            assert abs(seen[stratum] - size * reached / len(placed)) <= len(sizes)


@given(NAMES, st.text(max_size=4), st.data())
def test_positions_are_those_of_the_plain_rule(
    devices: list[str], rollout_id: str, data: st.DataObject
) -> None:
    """All at once as one after the other, with strata and without."""
    strata = [data.draw(st.sampled_from(["arm,", "x86,", ""])) for _ in devices]
    placed = order.positions(rollout_id, devices, strata)
    by_name = dict(zip(devices, strata, strict=True))
    assert [each for _, each in sorted(zip(placed, devices, strict=True))] == arrange(
        rollout_id, devices, by_name
    )
    assert order.positions(rollout_id, devices) == order.positions(
        rollout_id, devices, ["same"] * len(devices)
    )


def test_a_small_stratum_may_begin_anywhere() -> None:
    """Where a stratum begins differs from rollout to rollout: one odd device takes any place."""
    devices = [f"d{number}" for number in range(20)]
    strata = {device: "odd" if device == "d7" else "even" for device in devices}
    places = {arrange(f"r{n}", devices, strata).index("d7") for n in range(40)}
    assert len(places) > 5


def test_who_comes_later_may_take_any_slot() -> None:
    """Over many devices every slot is tried about as often, and another one at each attempt."""
    tried = Counter(order.slot("r", f"d{n}", 0, 8) for n in range(4_000))
    assert set(tried) == set(range(8))
    assert all(350 < count < 650 for count in tried.values())
    assert len({order.slot("r", "d", attempt, 1_000) for attempt in range(10)}) > 5
