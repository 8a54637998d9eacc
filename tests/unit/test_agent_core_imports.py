"""The core's process stays light: what it loads is what it costs, on every device, always."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {
    "ai_edge_litert",
    "cryptography",
    "httpx",
    "numpy",
    "securesystemslib",
    "sqlite_utils",
    "tflite_runtime",
    "tuf",
    "typer",
    "uvicorn",
}


def test_the_running_core_loads_nothing_heavy() -> None:
    """Not even through others: asked of a fresh interpreter."""
    code = "import json, sys, agent.cli, agent.daemon; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert loaded & HEAVY == set()
    assert {"paho", "msgspec"} <= loaded
