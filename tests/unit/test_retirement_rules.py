"""How far a device has left the fleet: the orders that count, and those that do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.deployment import retirement
from agent.deployment.retirement import Phase, Retirement
from firmware_bundles.errors import AssignmentReplayed
from firmware_bundles.wire.messages import Erasure

generations = st.integers(1, 5)
orders = st.builds(Erasure, generation=generations, is_confirmed=st.booleans())
standings = st.builds(
    Retirement, generation=generations, phase=st.sampled_from(Phase), segments=st.integers(0, 9)
)


@given(standings, orders)
def test_a_generation_never_goes_back(known: Retirement, order: Erasure) -> None:
    """An order changes nothing, begins a newer retirement, or is refused as a replay."""
    if order.generation < known.generation:
        with pytest.raises(AssignmentReplayed):
            retirement.ordered(known, order)
    elif order.generation > known.generation:
        found = retirement.ordered(known, order)
        assert found == Retirement(order.generation, Phase.ERASING)
    elif known.is_open:
        assert retirement.ordered(known, order) == known


@given(standings, orders)
def test_an_enrolment_makes_every_known_order_old(known: Retirement, order: Erasure) -> None:
    """What ended with an enrolment does not begin again by a copy of the order."""
    fresh = retirement.ended(known)
    assert not fresh.is_open
    if order.generation <= known.generation:
        with pytest.raises(AssignmentReplayed):
            retirement.ordered(fresh, order)


@given(standings, orders)
def test_only_the_last_word_on_what_was_erased_lets_a_device_go(
    known: Retirement, order: Erasure
) -> None:
    """A confirmation of something else, or before anything is erased, does not."""
    if retirement.is_released(known, order):
        assert known.phase is Phase.ERASED
        assert order == Erasure(generation=known.generation, is_confirmed=True)


def test_only_what_is_erased_is_said() -> None:
    """The report speaks of an erasure once nothing is left."""
    assert retirement.statement(Retirement(5, Phase.ERASING, 3)) is None
    said = retirement.statement(Retirement(5, Phase.ERASED, 3, 9.5))
    assert said is not None
    assert (said.generation, said.segments, said.time) == (5, 3, 9.5)
