"""Prints docs/reference/rollout.schema.json, made from the structs that read rollout files.

.venv/bin/python scripts/rollout_schema.py > docs/reference/rollout.schema.json
"""

from __future__ import annotations

import json
import sys

from control_plane.rollouts.schema import json_schema


def page() -> str:
    """Return the whole file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
