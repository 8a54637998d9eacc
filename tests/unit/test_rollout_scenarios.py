"""The planner's behaviour as texts: each scenario is replayed and compared whole.

To accept a change of behaviour: SHOAL_TEST_ACCEPT=1 pytest tests/unit/test_rollout_scenarios.py,
and read the difference before it is committed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.rollout_script import replay

SCENARIOS = sorted((Path(__file__).parent / "rollout_scenarios").glob("*.txt"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_the_planner_says_what_is_written_down(file: Path) -> None:
    """Every decision of a scenario, every order and every reason is the one in its transcript."""
    written = file.read_text()
    now = replay(written)
    if os.environ.get("SHOAL_TEST_ACCEPT") == "1":
        file.write_text(now)
    else:
        assert now == written


def test_there_are_scenarios() -> None:
    """A missing folder is no success."""
    assert len(SCENARIOS) > 10
