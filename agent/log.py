"""One line an event on standard error, key=value, for journals and for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any


def event(name: str, /, **facts: object) -> None:
    """Write one line of the core: the time, the event's name, its facts."""
    write("core", name, facts)


def write(program: str, name: str, facts: Mapping[str, object]) -> None:
    """Write one line of a program: time, program, event, facts. Values with blanks are quoted."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    pairs = " ".join(f"{key}={_value(value)}" for key, value in facts.items() if value is not None)
    sys.stderr.write(f"{moment} {program} event={name} {pairs}".rstrip() + "\n")
    sys.stderr.flush()


def unhandled(program: str) -> Callable[[object, Mapping[str, Any]], None]:
    """Return an event loop's exception handler that writes one line, and no traceback."""

    def tell(_loop: object, context: Mapping[str, Any]) -> None:
        error = context.get("exception")
        write(program, "unhandled", {"what": context["message"], "error": error and repr(error)})

    return tell


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_plain = bool(text) and text.isprintable() and not any(c in text for c in ' "=\\')
    return text if is_plain else json.dumps(text)
