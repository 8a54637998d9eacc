"""Prints docs/reference/events.md: the id of every event in the agent's log, and what it means.

.venv/bin/python scripts/event_table.py > docs/reference/events.md
"""

from __future__ import annotations

import sys

from agent import events

_HEAD = """\
# Events

Written by `scripts/event_table.py` from `agent/events.py`: change that file, not this.

Core and worker write one line an event on standard error, which a service manager keeps:

    2026-11-21T13:27:23.000Z core event=deployment-probation family=digits generation=7 slot=B

The time, the program, the event's id, then facts as `key=value`; a value with blanks is quoted as
in JSON. Ids are stable: filter by them, not by texts. Every step of a
[deployment](../explanation/lifecycle.md) has one, named `deployment-` and the state that was
entered. A library's own warnings carry the library's name as id.

| id | means |
|---|---|
"""


def page() -> str:
    """Return the whole page."""
    rows = (f"| `{name}` | {meaning} |\n" for name, meaning in sorted(events.CATALOGUE.items()))
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(page())
