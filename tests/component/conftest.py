"""What component tests share: one side real, its clock and its surroundings chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support import deployments, postgres
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


@pytest.fixture(scope="session")
def _postgres() -> Iterator[postgres.Server]:
    with postgres.server() as running:
        yield running


_POSTGRESQL = (pytest.mark.needs("postgres"), pytest.mark.xdist_group("postgres"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=_POSTGRESQL)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shoal.db'}"
    running: postgres.Server = request.getfixturevalue("_postgres")
    return running.new_database()


@pytest.fixture
def control_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give the fleet part of a control plane."""
    made = ControlPlane(tmp_path)
    yield made
    made.close()
