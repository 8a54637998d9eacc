"""The tests of this folder once more, in the environment of tflite-runtime."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support import programs

FOLDER = Path(__file__).parent
# This one, and what asks a worker from outside: whatever its runtime is.
_ELSEWHERE = {Path(__file__).name, "test_protocol_clients.py"}


@pytest.mark.needs(programs.TFLITE_PYTHON)
@pytest.mark.needs("gcc")
@pytest.mark.timeout(2_400)
def test_the_other_runtime_passes_the_same_tests(
    record_property: Callable[[str, object], None],
) -> None:
    """`./test.sh` makes the environment; both runtimes have to keep one port's promises."""
    python = programs.find(programs.TFLITE_PYTHON)
    assert python is not None
    tests = sorted(path for path in FOLDER.glob("test_*.py") if path.name not in _ELSEWHERE)
    assert len(tests) >= 2
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    for told in re.findall(r"mutants (\[.*\])", done.stdout):
        record_property("mutants", json.loads(told))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout.splitlines()[-1]
