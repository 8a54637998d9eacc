"""Opening the database: what is wrong with it is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.store.database import Database
from firmware_bundles.errors import ConfigInvalid


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "nonsense://host/name",
        "sqlite:////nowhere/at/all.db",
        "postgresql+nodriver://host/name",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    """No driver, no such folder, no URL: a setting that is wrong, not a crash."""
    with pytest.raises(ConfigInvalid) as refused:
        Database.open(url)
    assert "\n" not in refused.value.message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Garbage is told by its name and left as it is."""
    path = tmp_path / "shoal.db"
    path.write_bytes(b"garbage " * 1000)
    with pytest.raises(ConfigInvalid, match=r"shoal\.db"):
        Database.open(f"sqlite:///{path}")
    assert path.read_bytes() == b"garbage " * 1000


def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    """A schema that this release has never heard of is not guessed at."""
    url = f"sqlite:///{tmp_path / 'shoal.db'}"
    database = Database.open(url)
    with database.transaction() as connection:
        connection.exec_driver_sql("update alembic_version set version_num = '9999'")
    database.close()
    with pytest.raises(ConfigInvalid, match="9999"):
        Database.open(url)
