"""Every parser of foreign bytes, against damaged and hostile input.

Only the errors of the tree come out, what is taken comes back when it is written again, and memory
and time stay bounded. Short runs try a little of everything; `./test.sh --long` at least 100,000
cases, and the number is printed.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from support.hostile import inputs, readers, regressions
from support.hostile.parser import Parser, limited_memory
from support.hostile.regressions import Regression
from support.hostile.table import EXEMPT, PARSERS

CASES_SHORT = 50
CASES_LONG_MIN = 100_000
PEAK_BYTES_MAX = 96 * 1024 * 1024

# Libraries warn of what a later version of them will refuse.
pytestmark = [
    pytest.mark.filterwarnings("ignore:PKCS#7 certificates could not be parsed as DER"),
    pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive"),
]
each_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


def _cases(parser: Parser, *, is_long: bool) -> int:
    """Return how many cases a parser gets: shares of the whole by what one costs."""
    if not is_long:
        return max(5, CASES_SHORT // parser.cost)
    shares = sum(1 / each.cost for each in PARSERS)
    return int(CASES_LONG_MIN / shares / parser.cost) + 1


@pytest.fixture(autouse=True)
def _memory_is_limited() -> Iterator[None]:
    with limited_memory():
        yield


@each_parser
def test_good_input_is_taken(parser: Parser) -> None:
    """What is damaged below is good before."""
    for seed in parser.seeds:
        assert parser.check(seed)


@pytest.mark.parametrize("regression", regressions.all_of_them(), ids=lambda each: each.name)
def test_what_once_got_out_is_refused(regression: Regression) -> None:
    """Faults that were found here stay mended."""
    (parser,) = (parser for parser in PARSERS if parser.name == regression.parser)
    assert not parser.check(regression.data)


@each_parser
def test_the_bad_input_classes_are_refused_with_our_errors(
    parser: Parser, *, is_long_run: bool, record_property: Callable[[str, object], None]
) -> None:
    """Whole inputs of each class: nothing, tokens, nesting, numbers, bombs, empty containers.

    A short run gives a costly parser a part of them.
    """
    bad = inputs.classes()[:: 1 if is_long_run else parser.cost]
    for data in bad:
        parser.check(data)
    record_property("hostile_cases", len(bad))


@each_parser
def test_damaged_input_is_refused_with_our_errors(
    parser: Parser, *, is_long_run: bool, record_property: Callable[[str, object], None]
) -> None:
    """Good input, damaged in its bytes or its structure, is refused or taken, never half taken."""
    tried = 0
    wanted = _cases(parser, is_long=is_long_run)

    @settings(
        max_examples=wanted,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs.near(parser.seeds, parser.form))
    def attack(data: bytes) -> None:
        nonlocal tried
        tried += 1
        parser.check(data)

    attack()
    record_property("hostile_cases", tried)
    assert tried >= wanted


@each_parser
@settings(max_examples=3, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_input_allocates_little(parser: Parser, data: st.DataObject) -> None:
    """The peak of memory stays far below what a decompression bomb or a claimed length asks for."""
    bad = data.draw(inputs.near(parser.seeds, parser.form) | st.sampled_from(inputs.classes()))
    tracemalloc.start()
    try:
        parser.check(bad)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= PEAK_BYTES_MAX


def test_every_reader_of_bytes_is_in_the_table() -> None:
    """A function that turns bytes into values is reached by a row, or exempt for a reason."""
    reached: set[str] = set()
    for parser in PARSERS:
        for seed in parser.seeds:
            reached |= readers.reached(lambda parser=parser, seed=seed: parser.parse(seed))  # type: ignore[misc]
    found = readers.in_source()
    assert sorted(found - reached - EXEMPT.keys()) == []
    assert sorted(EXEMPT.keys() - found) == [], "exempt, and no longer there"


def test_names_are_unique_and_the_long_run_is_long() -> None:
    """Cases are counted by name, and their sum keeps what `--long` promises."""
    assert len({parser.name for parser in PARSERS}) == len(PARSERS)
    assert sum(_cases(parser, is_long=True) for parser in PARSERS) >= CASES_LONG_MIN
