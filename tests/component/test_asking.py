"""The ways to ask that the documentation shows, run as they stand there; and a port on loopback."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from agent.inference.supervisor import INFERENCE_SOCKET
from support import workers
from support.bundles import Sample, images
from support.handed_sockets import serving_on_tcp
from support.workers import Device, infer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "ask-a-model.md"
NOT_RUN = "socat"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that serves digits."""
    state_dir = tmp_path_factory.mktemp("state")
    Sample("v1").declare(("",), ("revenue",)).put(state_dir, "A")
    with workers.device(state_dir) as made, made.running():
        yield made


def examples(language: str) -> list[str]:
    """Return the page's examples of a language, in order."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [each for each in found if NOT_RUN not in each]


@pytest.mark.needs("curl")
def test_the_examples_for_curl_work_as_they_stand(device: Device, tmp_path: Path) -> None:
    """Only the id of a prediction is another one than the page's."""
    np.zeros(64, dtype=np.int8).tofile(tmp_path / "image.int8")
    told = ""
    for each in examples("sh"):
        known = re.search(r'"prediction_id":"([0-9a-f]{16}-[0-9]+)"', told)
        script = re.sub("[0-9a-f]{16}-17", known[1] if known else "", each)
        assert known or script == each
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("curl ", "curl -sS --fail ")],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "S": str(device.run_dir / INFERENCE_SOCKET)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, script + done.stdout + done.stderr
        told += done.stdout
    assert told.count('"model_version":"v1"') == 2
    assert told.count('"recorded":true') == 2


def test_the_examples_for_python_work_as_they_stand(
    device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real values as JSON, and as bytes."""
    (script,) = examples("python")
    names: dict[str, object] = {"S": str(device.run_dir / INFERENCE_SOCKET)}
    exec(script, names)  # noqa: S102 - our own page
    for client in names.values():
        if isinstance(client, httpx.Client):
            client.close()
    (printed,) = re.findall(r"'data': (\[.*?\])", capsys.readouterr().out)[:1]
    answer = names["answer"]
    assert isinstance(answer, httpx.Response)
    assert str(answer.raise_for_status().json()["outputs"][0]["data"]) == printed


def test_a_port_on_loopback_is_served_as_the_socket_is(tmp_path: Path) -> None:
    """A service manager may hand down both; the end is orderly."""
    Sample("v1").put(tmp_path, "A")
    with serving_on_tcp(tmp_path) as port:
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v2/models/digits/infer", json=infer(images(1)[0]), timeout=60
        )
    assert answer.json()["model_version"] == "v1"
