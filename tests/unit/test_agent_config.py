"""The agent's settings: who beats whom, and what is said about a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import config
from firmware_bundles.errors import ConfigInvalid


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """And each setting knows where it came from."""
    (tmp_path / "agent.toml").write_text("report_s = 10\nkeepalive_s = 10\nchunk_window = 2\n")
    environ = {"SHOAL_AGENT_REPORT_S": "20", "SHOAL_AGENT_KEEPALIVE_S": "20", "HOME": "/"}
    found, origins = config.load(tmp_path, {"report_s": "30"}, environ)
    assert (found.report_s, found.keepalive_s, found.chunk_window) == (30.0, 20, 2)
    assert found.hello_retry_s == 30.0
    assert origins["report_s"] == "flag"
    assert origins["keepalive_s"] == "environment"
    assert origins["chunk_window"] == str(tmp_path / "agent.toml")
    assert origins["hello_retry_s"] == "default"


def test_the_state_directory_may_come_from_the_environment(tmp_path: Path) -> None:
    """As a service gives it."""
    found, origins = config.load(None, {}, {"SHOAL_AGENT_STATE_DIR": str(tmp_path)})
    assert found.state_dir == tmp_path
    assert found.run_dir == tmp_path / "run"
    assert origins["state_dir"] == "environment"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("report_sec = 1", "unknown setting 'report_sec'"),
        ("report_s = 'often'", "report_s must be a number"),
        ("report_s = true", "report_s must be a number"),
        ("report_s = nan", "report_s must be"),
        ("chunk_window = 1.5", "chunk_window must be a whole number"),
        ("chunk_window = 99", "chunk_window must be 1 to 16"),
        ("run_dir = 3", "run_dir must be a path"),
        ("worker = 'thread'", "worker must be child or unit"),
        ("worker = 1", "worker must be child or unit"),
        ("report_s =", "is not TOML"),
        ("keepalive_s = inf", "keepalive_s must be a whole number"),
        ("report_s = " + "[" * 30_000, "is not TOML"),
        ("[section]\nreport_s = 1", "unknown setting 'section'"),
        ("reconnect_s_min = 9", "is above"),
        ("state_dir = '/elsewhere'", "state_dir cannot be set"),
        (f"run_dir = '/{'x' * 200}'", "too long for the sockets"),
    ],
)
def test_a_wrong_file_is_one_clear_sentence(tmp_path: Path, text: str, said: str) -> None:
    """It names the setting and the place."""
    (tmp_path / "agent.toml").write_text(text)
    with pytest.raises(ConfigInvalid, match=said):
        config.load(tmp_path, {}, {})


def test_a_misspelt_setting_brings_a_suggestion(tmp_path: Path) -> None:
    """In the environment as anywhere."""
    with pytest.raises(ConfigInvalid) as caught:
        config.load(tmp_path, {}, {"SHOAL_AGENT_REPORTS": "5"})
    assert "report_s" in caught.value.hint
