"""What this device is made of, as plain facts; nothing heavy is imported to find out."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from agent import speed
from agent.inference import delegates
from firmware_bundles import capabilities, operations
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.errors import ConfigInvalid
from firmware_bundles.windows import UTC_OFFSET
from firmware_bundles.wire.messages import inventory_digest_input

# Distributions that can run a model, the preferred one first.
_RUNTIMES: Final = ("ai-edge-litert", "tflite-runtime")
_DISTRIBUTION: Final = "shoal"
_KIB: Final = 1024
_ASK_RUNTIME: Final = (sys.executable, "-I", "-m", "agent.inference.operations")
_ASK_S_MAX: Final = 30.0


def facts(state_dir: Path | None = None) -> dict[str, str | int | float | bool]:
    """Return the inventory; with a state directory also what is configured and was measured there.

    While the agent runs that may change, and the offset of local time.
    """
    found = {**_fixed(), UTC_OFFSET: time.localtime().tm_gmtoff // 60}
    if state_dir is not None:
        found[capabilities.ACCELERATORS] = _accelerators(state_dir)
        if (measured := speed.kept(state_dir)) is not None:
            found[capabilities.SPEED_CLASS] = measured
    return found


@cache
def _fixed() -> dict[str, str | int | float | bool]:
    return {
        "arch": platform.machine(),
        "kernel": platform.release(),
        capabilities.MEMORY: _memory_bytes(),
        "processors": os.cpu_count() or 1,
        "python": platform.python_version(),
        capabilities.RUNTIME: _runtime(),
        capabilities.OPERATIONS: _operation_versions(_runtime()),
        "agent_version": agent_version(),
    }


def offered(state_dir: Path | None = None) -> Capabilities:
    """Return what this device offers to a model. Measures its speed first if nobody did; blocks."""
    if state_dir is not None:
        speed.measured(state_dir)
    return capabilities.of_inventory(facts(state_dir))


def digest(state_dir: Path | None = None) -> str:
    """Return the SHA-256 of the inventory: a change of it makes the control plane ask."""
    return hashlib.sha256(inventory_digest_input(facts(state_dir))).hexdigest()


@cache
def agent_version() -> str:
    """Return the version of the installed distribution."""
    return _version(_DISTRIBUTION) or "unknown"


def _accelerators(state_dir: Path) -> str:
    try:
        names = [each.name for each in delegates.load(state_dir)]
    except ConfigInvalid:
        names = []  # the worker serves without any, and says why
    return capabilities.accelerators_fact(names)


def _runtime() -> str:
    for name in _RUNTIMES:
        if version := _version(name):
            return f"{name} {version}"
    return capabilities.RUNTIME_NONE


def _operation_versions(runtime: str) -> str:
    """Return what the runtime knows; one that this release does not know is asked, once."""
    if known := operations.RUNTIMES.get(runtime):
        return known
    if runtime == capabilities.RUNTIME_NONE:
        return ""
    try:
        asked = subprocess.run(
            _ASK_RUNTIME, capture_output=True, text=True, timeout=_ASK_S_MAX, check=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""  # not known: the self-test decides alone
    return asked.stdout if operations.parse(asked.stdout) else ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _memory_bytes() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * _KIB
    return 0
