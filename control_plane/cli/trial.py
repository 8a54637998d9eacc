"""Runs a model for its owner in a child process: it may be damaged, and interpreters may crash.

The child is the device's own code, so that the owner sees what devices will answer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from firmware_bundles import conversion, golden
from firmware_bundles.conversion import Answered
from firmware_bundles.errors import SelfTestFailed, from_code
from firmware_bundles.golden import GoldenVectors

TRIAL_S_MAX: Final = 120.0
_REFUSED: Final = 3
_REASON_CHARS_MAX: Final = 200


class _Refusal(msgspec.Struct):
    code: str
    message: str
    hint: str = ""


def is_possible() -> bool:
    """Return whether this machine has an interpreter."""
    return any(find_spec(name) for name in ("ai_edge_litert", "tflite_runtime"))


def run(model: Path, vectors: GoldenVectors) -> Answered:
    """Return what the model answers to the inputs of `vectors`.

    Raises ModelUnusable, RuntimeUnsupported, and SelfTestFailed for a crash or a hang.
    """
    with tempfile.NamedTemporaryFile(suffix=".msgpack") as file:
        file.write(golden.encode(vectors))
        file.flush()
        command = (sys.executable, "-I", "-m", "agent.inference.trial")
        try:
            done = subprocess.run(
                (*command, str(model.resolve()), file.name, str(TRIAL_S_MAX)),
                capture_output=True,
                timeout=TRIAL_S_MAX,
                check=False,
                env={"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired as error:
            raise SelfTestFailed(f"{model} did not answer in {TRIAL_S_MAX:g} seconds") from error
    if done.returncode == 0:
        return conversion.parse(done.stdout)
    last = done.stderr.rpartition(b"\n")[2]
    if done.returncode == _REFUSED:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            refusal = msgspec.json.decode(last, type=_Refusal)
            raise from_code(refusal.code, f"{model}: {refusal.message}", refusal.hint)
    if done.returncode < 0:
        raise SelfTestFailed(f"{model} ends the interpreter by signal {-done.returncode}")
    said = last.decode("utf-8", "replace")[-_REASON_CHARS_MAX:]
    raise SelfTestFailed(f"{model} could not be run: {said}")
