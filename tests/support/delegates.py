"""An accelerator of ours that takes operations for real and fails as it is told to.

What it can be told stands in `delegate/delegate.c`.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.inference import delegates

SOURCE = Path(__file__).parent / "delegate" / "delegate.c"
_WARNINGS = ("-Wall", "-Wextra", "-Werror")


@cache
def library() -> Path:
    """Return the delegate as a shared library, compiled once for its source."""
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"shoal-delegate-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / "libfake.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            fresh = Path(aside) / built.name
            output = ("-std=gnu11", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "-o")
            subprocess.run(["gcc", *_WARNINGS, *output, fresh, SOURCE], check=True)
            fresh.replace(built)
    return built


def entry(options: Mapping[str, object], **settings: object) -> dict[str, object]:
    """Return the delegate's entry; a slower one is welcome, unless `settings` say else."""
    facts: dict[str, object] = {
        "kind": "external",
        "name": "fake",
        "library": str(library()),
        "options": dict(options),
        "may_be_slower": True,
        # A busy machine is no reason to lose a test's accelerator.
        "probe_s_max": 60,
        "invoke_s_max": 30,
    }
    return facts | settings


def write(state_dir: Path, *entries: Mapping[str, object]) -> None:
    """Write `inference.toml`. TOML's values are JSON's, but for tables."""
    lines = []
    for entry in entries:
        lines.append("[[delegate]]")
        for key, value in entry.items():
            if isinstance(value, Mapping):
                inner = ", ".join(f"{name} = {json.dumps(each)}" for name, each in value.items())
                lines.append(f"{key} = {{{inner}}}")
            else:
                lines.append(f"{key} = {json.dumps(value)}")
    (state_dir / delegates.FILE_NAME).write_text("\n".join(lines) + "\n")


def answers(path: Path, inputs: NDArray[Any], outputs: NDArray[Any]) -> None:
    """Write what the delegate answers for a whole graph: one row an input."""
    rows = len(inputs)
    flat = [np.ascontiguousarray(e).reshape(rows, -1).view(np.uint8) for e in (inputs, outputs)]
    head = np.array([rows, flat[0].shape[1], flat[1].shape[1]], dtype="<i4")
    path.write_bytes(head.tobytes() + np.concatenate(flat, axis=1).tobytes())
