"""The rollout file as a JSON Schema, made from the structs that read it.

Editors check files against it while they are written. What it cannot say (phases grow, a phase in
shadow needs `policy.shadow`) is checked when the file is read.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from control_plane.rollouts.spec import SCHEMA, RolloutSpec

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_SIZED: Final = ("PhaseSpec", "HoldOut")
_EITHER: Final = [{"required": ["share"]}, {"required": ["count"]}]


def json_schema() -> dict[str, Any]:
    """Return the schema as plain values."""
    schema = msgspec.json.schema(RolloutSpec)
    for name in _SIZED:
        schema["$defs"][name]["oneOf"] = _EITHER
    described: dict[str, Any] = _portable(schema)
    return {
        "$schema": _DIALECT,
        "title": f"shoal rollout file {SCHEMA}",
        **described,
    }


def _portable(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Write patterns as every reader knows them, and descriptions in one line."""
    if isinstance(value, list | tuple):
        return [_portable(each) for each in value]
    if not isinstance(value, dict):
        return value
    result = {key: _portable(each) for key, each in value.items()}
    if isinstance(pattern := result.get("pattern"), str):
        result["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
    if isinstance(text := result.get("description"), str):
        result["description"] = " ".join(text.split())
    return result
