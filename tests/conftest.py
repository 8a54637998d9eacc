"""The frame of all suites: options, sizes, system programs, and a word on what was skipped."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import hypothesis
import pytest

from support import programs

TESTS = Path(__file__).parent
HOSTILE_CASES = "hostile_cases"  # the property in which a test says how many inputs it tried
MUTANTS = "mutants"  # the property in which a test says how damaged models ended, by runtime
SKIPPED_FOR = "needs "  # how the reason of a skip for a missing program begins

# How fast a busy machine makes examples says nothing about the code.
_CALM = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("short", _CALM, max_examples=100)
hypothesis.settings.register_profile("long", _CALM, max_examples=5_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what test.sh passes on."""
    group = parser.getgroup("shoal")
    group.addoption(
        "--require-all",
        action="store_true",
        help="fail, instead of skipping, a test whose system program is missing",
    )
    group.addoption("--long", action="store_true", help="full sizes")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the sizes of this run; children of tests learn them from SHOAL_TEST_LONG."""
    if config.getoption("--long"):
        os.environ["SHOAL_TEST_LONG"] = "1"
    is_long = os.environ.get("SHOAL_TEST_LONG") == "1"
    if is_long:
        config.option.timeout = 1_800
    hypothesis.settings.load_profile("long" if is_long else "short")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the system suite on one worker: its processes share ports and processors.

    What is marked `long` belongs to long runs alone.
    """
    if os.environ.get("SHOAL_TEST_LONG") != "1":
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    for item in items:
        if _suite(item.path) == "system":
            item.add_marker(pytest.mark.xdist_group("system"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse or skip a test whose system program is missing."""
    for marker in item.iter_markers("needs"):
        (program,) = marker.args
        command = programs.how_to_get(program)
        if programs.find(program):
            continue
        reason = f"{SKIPPED_FOR}{program}: {command}"
        if item.config.getoption("--require-all"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much hostile input was tried, and which suites were skipped for want of a program."""
    _tell_hostile_cases(terminalreporter)
    _tell_mutants(terminalreporter)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for report in terminalreporter.stats.get("skipped", []):
        *_, reason = report.longrepr
        if SKIPPED_FOR in reason:
            counts[_suite(TESTS.parent / report.location[0]), reason.partition(SKIPPED_FOR)[2]] += 1
    if counts:
        terminalreporter.section("skipped for a missing system program")
    for (suite, reason), count in sorted(counts.items()):
        program, _, command = reason.partition(": ")
        terminalreporter.line(f"tests/{suite}: {count} need {program}; get it: {command}")


def _tell_hostile_cases(reporter: pytest.TerminalReporter) -> None:
    passed = reporter.stats.get("passed", [])
    counts = [dict(report.user_properties).get(HOSTILE_CASES, 0) for report in passed]
    if any(counts):
        tried = [each for each in passed if HOSTILE_CASES in dict(each.user_properties)]
        parsers = len({report.location[2].partition("[")[2] for report in tried})
        reporter.section("hostile input")
        reporter.line(f"{sum(counts):,} cases against {parsers} parsers")


def _tell_mutants(reporter: pytest.TerminalReporter) -> None:
    """Say how each runtime's self-tests of damaged model files ended."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for report in reporter.stats.get("passed", []):
        for runtime, verdicts in (v for name, v in report.user_properties if name == MUTANTS):
            found[runtime].update(verdicts)
    for runtime, verdicts in sorted(found.items()):
        ends = ", ".join(f"{count:,} {verdict}" for verdict, count in verdicts.most_common())
        reporter.line(f"{runtime}: {verdicts.total():,} damaged model files: {ends}")


@pytest.fixture(scope="session")
def is_long_run() -> bool:
    """Whether full sizes are asked for (`./test.sh --long`)."""
    return os.environ.get("SHOAL_TEST_LONG") == "1"


def _suite(path: Path) -> str:
    """The folder of tests that a file belongs to: unit, protocol, component, system, ..."""
    return path.relative_to(TESTS).parts[0]
