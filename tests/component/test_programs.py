"""Tests that need a system program: skipped with the command that gets it, or failed on demand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import programs

ROOT = Path(__file__).parents[2]

DECLARED = """
from support import programs
programs.PACKAGES["no-such-program"] = "no-such-package"
"""
NEEDY = """
import pytest

@pytest.mark.needs("no-such-program")
def test_with():
    pass

def test_without():
    pass
"""


@pytest.fixture
def needy(tmp_path: Path) -> Path:
    """A project with this one's frame, where one test of two needs a missing program."""
    system = tmp_path / "tests" / "system"
    system.mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / "tests" / "conftest.py", system.parent)
    shutil.copytree(ROOT / "tests" / "support", system.parent / "support")
    (system / "conftest.py").write_text(DECLARED)
    (system / "test_needy.py").write_text(NEEDY)
    return tmp_path


def _run(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("options", [(), ("-n", "1", "--dist", "loadgroup")])
def test_a_missing_program_skips_and_names_the_command(
    needy: Path, options: tuple[str, ...]
) -> None:
    """Who runs the tests learns which suite was skipped and how to get what it needs."""
    run = _run(needy, *options)
    assert run.returncode == 0, run.stdout + run.stderr
    said = "tests/system: 1 need no-such-program; get it: sudo apt-get install no-such-package"
    assert said in run.stdout
    assert "1 passed, 1 skipped" in run.stdout.splitlines()[-1]


def test_require_all_fails_instead(needy: Path) -> None:
    """Continuous integration must not pass by skipping."""
    run = _run(needy, "--require-all")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "needs no-such-program: sudo apt-get install no-such-package" in run.stdout
    assert "1 passed, 1 error" in run.stdout.splitlines()[-1]


def test_a_program_nobody_declared_is_an_error(needy: Path) -> None:
    """A marker with a misspelt program must not skip for ever."""
    (needy / "tests" / "system" / "conftest.py").unlink()
    run = _run(needy)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "KeyError: 'no-such-program'" in run.stdout


def test_a_program_is_found_or_not() -> None:
    """A shell is on every machine that runs this; a made-up name is on none."""
    assert programs.find("sh") is not None
    assert programs.find("no-such-program") is None
