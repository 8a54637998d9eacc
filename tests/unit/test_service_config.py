"""Settings of the service: who beats whom, and how mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane import config
from firmware_bundles.errors import ConfigInvalid


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    """Each setting comes from the strongest place that names it."""
    file = tmp_path / "shoal.toml"
    file.write_text('port = 1\nlocal_port = 2\nbroker = "amqtt"\n')
    environment = {"SHOAL_CONFIG": str(file), "SHOAL_PORT": "11", "SHOAL_LOCAL_PORT": "12"}
    found = config.load({"port": 21, "data": tmp_path, "host": None}, environment)
    assert (found.port, found.local_port, found.broker) == (21, 12, "amqtt")
    assert found.host == "127.0.0.1"
    assert found.database_url == f"sqlite:///{tmp_path / 'shoal.db'}"


def test_an_unknown_setting_is_named_with_the_nearest(tmp_path: Path) -> None:
    """A misspelt name in the file is an error that suggests the right one."""
    file = tmp_path / "shoal.toml"
    file.write_text("locl_port = 2\n")
    with pytest.raises(ConfigInvalid) as refusal:
        config.load({}, {}, file)
    assert "locl_port" in refusal.value.message
    assert "local_port" in refusal.value.hint


@pytest.mark.parametrize(
    ("flags", "environment"),
    [
        ({}, {"SHOAL_PORT": "many"}),
        ({"port": 70_000}, {}),
        ({"tick_s": 0.0}, {}),
        ({}, {"SHOAL_TICK_S": "nan"}),
        ({"log_level": "loud"}, {}),
        ({"certificate_days": 29}, {}),
        ({}, {"SHOAL_CERTIFICATE_DAYS": "91"}),
        ({}, {"SHOAL_CONFIG": "/nowhere/shoal.toml"}),
    ],
)
def test_a_wrong_value_is_refused(
    flags: dict[str, object], environment: dict[str, str], tmp_path: Path
) -> None:
    """A value of the wrong type or range is an error, not a default."""
    with pytest.raises(ConfigInvalid):
        config.load({"data": tmp_path, **flags}, environment)
