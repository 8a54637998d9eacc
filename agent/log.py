"""One line an event on standard error, key=value, for journals and for people."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime


def event(name: str, /, *, program: str = "core", **facts: object) -> None:
    """Write one line: time, program, the event's name, its facts. Values with blanks are quoted."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    pairs = " ".join(f"{key}={_value(value)}" for key, value in facts.items() if value is not None)
    sys.stderr.write(f"{moment} {program} event={name} {pairs}".rstrip() + "\n")
    sys.stderr.flush()


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    is_plain = bool(text) and text.isprintable() and not any(c in text for c in ' "=\\')
    return text if is_plain else json.dumps(text)
