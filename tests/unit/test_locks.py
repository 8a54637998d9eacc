"""One agent and one worker to a folder: the second is refused, the first is not disturbed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent import cli, identity, locks
from agent.inference.supervisor import INFERENCE_SOCKET
from firmware_bundles.errors import DeviceError


def test_a_lock_is_held_by_one_until_it_ends(tmp_path: Path) -> None:
    """The second waits for as long as it is patient; after the end of the first it is free."""
    held = locks.hold(tmp_path / "lock", "worker")
    with pytest.raises(DeviceError, match="another worker uses"):
        locks.hold(tmp_path / "lock", "worker", patience_s=0.1)
    os.close(held)
    os.close(locks.hold(tmp_path / "lock", "worker"))


def test_a_second_agent_leaves_the_first_its_sockets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends with one line, before it binds anything."""
    (tmp_path / identity.FOLDER).mkdir()
    (tmp_path / identity.FOLDER / identity.FACTS).touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / INFERENCE_SOCKET).touch()
    held = locks.hold(tmp_path / locks.AGENT_LOCK, "agent")
    assert cli.main(["--state-dir", str(tmp_path), "run"]) == cli.FAILED
    os.close(held)
    assert capsys.readouterr().err.startswith(f"error: another agent uses {tmp_path}")
    assert (tmp_path / "run" / INFERENCE_SOCKET).exists()
