"""The ids of events: every one that the agent writes stands in the catalogue, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from agent import events
from firmware_bundles.wire.messages import DeploymentState

AGENT = Path(__file__).parents[2] / "agent"
_CALLS = frozenset({"event", "_event", "on_event", "_on_event"})


def _written() -> Iterator[str]:
    """The constant ids in the code; those of transitions are made by `events.of_state`."""
    for file in AGENT.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if name in _CALLS and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value.replace("_", "-")


def test_every_event_is_in_the_catalogue_and_no_other() -> None:
    """Whoever filters a journal by id can look each one up."""
    written = {*_written(), "unhandled"} | {events.of_state(state) for state in DeploymentState}
    assert written == set(events.CATALOGUE)


def test_every_transition_has_an_id_of_its_own() -> None:
    """A new state cannot lack one."""
    ids = [events.of_state(state) for state in DeploymentState]
    assert len(set(ids)) == len(DeploymentState)
    assert set(ids) <= set(events.CATALOGUE)
