"""The core's process stays light: what it loads is what it costs, on every device, always."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

OURS = {"agent", "firmware_bundles"}
LIGHT = {"paho", "msgspec"}
THEIRS = {"typing_extensions"}  # msgspec takes it where it is there


def loaded_by(statement: str) -> set[str]:
    """Return what a fresh interpreter loads for a statement, beyond its own library and start."""
    code = f"import sys; before = set(sys.modules); {statement}; import json; "
    code += "print(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True
    )
    names = {name.split(".")[0] for name in json.loads(done.stdout)}
    return names - sys.stdlib_module_names


def test_the_running_core_loads_nothing_heavy() -> None:
    """Nothing of others but the two libraries it is made of, not even through others."""
    assert loaded_by("import agent.cli, agent.daemon, agent.core") - THEIRS == OURS | LIGHT


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("agent.deployment.lifecycle", "asyncio"),
        ("agent.inference.selftest", "asyncio"),
        ("agent.inference.served", "asyncio"),
    ],
)
def test_what_starts_often_starts_fast(module: str, heavy: str) -> None:
    """A self-test's child loads no event loop: it runs once for each model on each device."""
    code = f"import sys, {module}; print({heavy!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, check=True, text=True
    )
    assert done.stdout.strip() == "False"
