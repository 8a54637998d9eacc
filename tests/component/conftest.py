"""What component tests share: one side real, its clock and its surroundings chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import deployments
from support.control_planes import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _closed_states() -> Iterator[None]:
    """Close what devices of a test, which end without any farewell, left open."""
    yield
    while deployments.OPENED:
        deployments.OPENED.pop().close()


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give the fleet part of a control plane."""
    made = ControlPlane(tmp_path)
    yield made
    made.close()
