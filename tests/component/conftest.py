"""What component tests share: one side real, its clock and its surroundings chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.control_planes import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give the fleet part of a control plane."""
    made = ControlPlane(tmp_path)
    yield made
    made.close()
