"""Prints docs/explanation/lifecycle.md: the life of a deployment, drawn from the table in the code.

.venv/bin/python scripts/lifecycle_diagram.py > docs/explanation/lifecycle.md
"""

from __future__ import annotations

import sys

from agent.deployment import lifecycle
from agent.deployment.lifecycle import Event
from firmware_bundles.wire.messages import DeploymentState

_HEAD = """\
# The life of a deployment

Written by `scripts/lifecycle_diagram.py` from the tables in `agent/deployment/lifecycle.py`:
change that file, not this.

A deployment is one bundle on one device under one generation. Each family of models has its own,
and they go side by side. The agent stores the next state, synced to disk, *before* it does that
state's work; every piece of work may be done twice. So a power cut repeats a step and never
forgets one. The policy (probation, limits, attempts) is copied into the record at the start: what
the control plane changes later holds for the next deployment.
"""
_TAIL = """
- **superseded**: a newer generation came. **cancelled**: somebody at the device said `shoal-agent
  rollback`. Both take hold at the next safe point: a download or a probation ends at once, a
  self-test first ends by itself, a pointer that is moving first arrives. The control plane
  cancels by superseding: a rollback of a rollout is a newer generation that names the former
  model.
- **loop_detected**: the record was stored {persists_max} times, far more than any good deployment
  needs. COMMITTING and ROLLING_BACK are spared: they only ever retry, since giving up there could
  report one model while another serves.
- **already_serving**: the order names what serves; it is committed at once, without download and
  without probation.
- A generation is carried out once, so a digest that failed is not tried again without a newer
  generation, and there is at most one automatic rollback a generation. Only a person at the
  device reverts a deployment that has ended: `shoal-agent rollback`.
- An orderly stop (SIGTERM) is noted and never counted. Elapsed time of a probation is kept across
  stops.

## Slots

Each family has two slots, A and B, and one pointer that names the slot that serves; it is written
aside, synced, renamed, and its folder synced. A slot is sealed when it is filled: the seal holds
the digest of the signed manifest and a mark. It is `untried` at first, `good` once a deployment
committed it, `bad` when its model failed a self-test or probation, or when somebody says so. At
every start the worker verifies seal, manifest and every file of the slot that the pointer names.
Where that fails, or the pointer is lost, it serves the other slot if that is whole and good, and
nothing else: without network, and without the core.

Where nothing is left of a committed model, neither in the slot that serves nor, good, in the other
one, the device fetches it again: its next hello (at each connect, and at least every `hello_s`)
names for that family the generation before. The control plane answers with the order that it has
for the device, which goes the whole way again: both signatures, download, self-test, probation.
Nothing older is taken, and a release that fails the second time is not fetched a third.
"""


def page() -> str:
    """Return the whole page."""
    tail = _TAIL.format(persists_max=lifecycle.PERSISTS_MAX)
    return f"{_HEAD}{_diagram()}\n{_table()}\n{_stops()}{tail}"


def _diagram() -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {DeploymentState.FETCHING.name}"]
    for state, row in lifecycle.TRANSITIONS.items():
        ways: dict[DeploymentState, list[str]] = {}
        for event, follows in row.items():
            if follows is not state:
                ways.setdefault(follows, []).append(event.value)
        lines += [f"    {state.name} --> {to.name}: {', '.join(on)}" for to, on in ways.items()]
        if (end := lifecycle.EXHAUSTED.get(state)) is not None:
            lines.append(f"    {state.name} --> {end.name}: too many unplanned stops")
    lines += [
        f"    {state.name} --> [*]" for state in DeploymentState if state in lifecycle.TERMINAL
    ]
    return "\n".join([*lines, "```"]) + "\n"


def _table() -> str:
    head = "| state | " + " | ".join(event.value for event in Event) + " |\n"
    rows = [
        f"| {state.name} | " + " | ".join(row[event].name for event in Event) + " |\n"
        for state, row in lifecycle.TRANSITIONS.items()
    ]
    return head + "|---" * (len(Event) + 1) + "|\n" + "".join(rows)


def _stops() -> str:
    head = "| state | after an unplanned stop | after `attempts_max` of them |\n|---|---|---|\n"
    return head + "".join(
        f"| {state.name} | {state.name} | {lifecycle.EXHAUSTED.get(state, state).name} |\n"
        for state in lifecycle.TRANSITIONS
    )


if __name__ == "__main__":
    sys.stdout.write(page())
