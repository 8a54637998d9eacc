"""Whole installations for the system suite: real programs, real broker, real models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fleet import Installation, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def install() -> Iterator[Callable[[str], Installation]]:
    """Make installations; all of them are stopped and removed at the end of the test."""
    made: list[Installation] = []

    def make(broker: str) -> Installation:
        # Unix socket paths are short: not below pytest's own folders.
        made.append(Installation(Path(tempfile.mkdtemp(prefix="shoal-test-")), broker=broker))
        return made[-1]

    yield make
    for installation in made:
        installation.stop()
        remove(installation.root)
