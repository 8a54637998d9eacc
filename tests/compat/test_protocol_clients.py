"""Clients of the Open Inference Protocol that others wrote, each in an environment of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support import serving_peers
from support.bundles import Sample
from support.handed_sockets import serving_on_tcp

CLIENT = "tritonclient[http]==2.73.0"


@pytest.mark.long
def test_tritons_client_finds_all_that_it_knows_to_ask(tmp_path: Path) -> None:
    """JSON and bytes both ways, compressed, at once; metadata, versions, and a refusal."""
    python = serving_peers.environment("tritonclient", (CLIENT,))
    Sample("v1").put(tmp_path, "A")
    with serving_on_tcp(tmp_path) as port:
        done = subprocess.run(
            [python, serving_peers.SCRIPTS / "oip_client.py", f"127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["check_facts", "check_answers", "check_the_rest"]
