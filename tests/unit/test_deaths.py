"""What deaths of the worker mean: of an input, or of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import deaths
from agent.inference.breadcrumbs import Act, Breadcrumbs, Crumb, digest
from agent.inference.deaths import Death, Register

MODEL, OTHER = "a" * 64, "b" * 64
NOW = 1_000_000.0


def _at(number: int, model: str = MODEL, time: float = NOW) -> Death:
    return Death(time=time, act=Act.INVOKING, family="digits", model=model, input=f"{number:064x}")


@given(st.lists(st.integers(0, 4), max_size=20))
def test_every_death_is_an_inputs_first_or_a_repeated_one(numbers: list[int]) -> None:
    """Killers and repeats add up; refused is who killed twice."""
    known = [_at(number) for number in numbers]
    assert deaths.killers(known, MODEL, NOW) + deaths.repeated(known, MODEL) == len(numbers)
    poisonous = {number for number in numbers if numbers.count(number) > 1}
    assert deaths.refused(known, MODEL) == {bytes.fromhex(f"{each:064x}") for each in poisonous}
    assert deaths.refused(known, OTHER) == frozenset()


def test_deaths_of_long_ago_do_not_count_together() -> None:
    """A model that dies once a day is not left for it."""
    known = [_at(number, time=NOW - number * deaths.WINDOW_S) for number in range(3)]
    assert deaths.killers(known, MODEL, NOW) == 1


def test_a_register_keeps_deaths_and_forgets_those_at_loading_what_loads(tmp_path: Path) -> None:
    """Over restarts; deaths at inputs stay when the model loads again."""
    loading = Death(time=NOW, act=Act.STARTING, family="digits", model=MODEL)
    Register(tmp_path).add([_at(1), loading], NOW)
    register = Register(tmp_path)
    assert deaths.at_loading(register.deaths, MODEL, Act.STARTING) == 1
    register.loaded(MODEL)
    assert Register(tmp_path).deaths == (_at(1),)


def test_a_register_that_cannot_be_read_is_empty(tmp_path: Path) -> None:
    """Whatever lies there."""
    (tmp_path / deaths.NAME).write_bytes(b'[{"time": 1, "act": 1, "input": "zz"}]')
    assert Register(tmp_path).deaths == ()


def test_breadcrumbs_tell_the_next_process_what_this_one_was_at(tmp_path: Path) -> None:
    """An inference that ended is not among them, nor one of a model that was being loaded."""
    path = tmp_path / "breadcrumbs"
    crumbs = Breadcrumbs(path)
    lanes = [crumbs.lane("digits", model)[0] for model in (MODEL, OTHER, MODEL)]
    for number, lane in enumerate(lanes):
        lane.begin(Act.INVOKING, bytes([number] * 32))
    lanes[0].end()
    loading = crumbs.loading(Act.SWAPPING, "digits", OTHER)
    loading.__enter__()
    assert crumbs.longest(10.0**12)[1] > 0
    found = deaths.traced(Breadcrumbs(path).left, NOW, "")
    assert {(each.act, each.model, each.input) for each in found} == {
        (Act.INVOKING, MODEL, "02" * 32),
        (Act.SWAPPING, OTHER, ""),
    }
    assert Breadcrumbs(path).left == []


@given(st.integers(8193, 40_000), st.data())
def test_a_large_input_is_known_by_each_of_its_bytes(size: int, data: st.DataObject) -> None:
    """One changed byte is another input; the same values are the same input, however they lie."""
    values = np.arange(size, dtype=np.uint32).astype(np.uint8)
    known = digest([values])
    assert digest([np.repeat(values, 2)[::2].reshape(1, -1)]) == known
    place = data.draw(st.integers(0, size - 1))
    values[place] ^= data.draw(st.integers(1, 255))
    assert digest([values]) != known


def test_an_input_is_known_by_the_same_in_every_process() -> None:
    """A worker finds in the register of deaths what another wrote."""
    assert digest([np.arange(20_000).astype(np.uint8)]).hex()[:16] == "1a98ac103dc1b1f7"
    assert digest([np.zeros(64, dtype=np.int8)]) == hashlib.sha256(bytes(64)).digest()


def test_no_input_is_blamed_while_an_accelerator_was_in_use() -> None:
    """The death is the accelerator's; one at loading a model stays the model's."""
    left = [
        Crumb(Act.INVOKING, "digits", MODEL, "02" * 32),
        Crumb(Act.SWAPPING, "digits", OTHER, ""),
    ]
    found = deaths.traced(left, NOW, "", is_accelerated=True)
    assert [(each.act, each.model) for each in found] == [(Act.SWAPPING, OTHER)]
