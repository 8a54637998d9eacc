"""What this device is made of, as plain facts; nothing heavy is imported to find out."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from firmware_bundles.wire.messages import inventory_digest_input

# Distributions that can run a model, the preferred one first.
_RUNTIMES: Final = ("ai-edge-litert", "tflite-runtime")
_DISTRIBUTION: Final = "shoal"
_KIB: Final = 1024


@cache
def facts() -> dict[str, str | int | float | bool]:
    """Return the inventory; it does not change while the agent runs."""
    return {
        "arch": platform.machine(),
        "kernel": platform.release(),
        "memory_bytes": _memory_bytes(),
        "processors": os.cpu_count() or 1,
        "python": platform.python_version(),
        "runtime": _runtime(),
        "agent_version": agent_version(),
    }


def digest() -> str:
    """Return the SHA-256 of the inventory: a change of it makes the control plane ask."""
    return hashlib.sha256(inventory_digest_input(facts())).hexdigest()


@cache
def agent_version() -> str:
    """Return the version of the installed distribution."""
    return _version(_DISTRIBUTION) or "unknown"


def _runtime() -> str:
    for name in _RUNTIMES:
        if version := _version(name):
            return f"{name} {version}"
    return "none"


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
