"""A whole installation on one machine: control plane, model owner, devices; all real programs.

Used by the demonstration and by the system tests. It does what a person does at a shell; what
happens in which order stands in `story` and in the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from processes import Program, ProgramError, children_of, command_line, free_port, program

if TYPE_CHECKING:
    from collections.abc import Callable

SAMPLES = Path(__file__).parents[2] / "firmware_bundles" / "samples" / "digits"
_START_S_MAX = 40.0
_COMMAND_S_MAX = 300.0
PASSPHRASE = "the demonstration has no secrets"  # noqa: S105


class Installation:
    """A control plane under `root`, and what a person at its shell can do."""

    def __init__(
        self, root: Path, *, broker: str = "auto", say: Callable[[str], None] = lambda _: None
    ) -> None:
        self.root = root
        self.data = root / "control-plane"
        self.keys = root / "keys"
        self.logs = root / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._broker = broker
        self._say = say
        self.port, self.local_port, self.broker_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.local_port}"
        self.token = ""
        self.settings: dict[str, str] = {}
        self.server: Program | None = None
        self.devices: dict[str, Device] = {}
        self._client = httpx.Client(base_url=f"{self.url}/api/v1", timeout=10.0)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every program started here."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_")}
        return (
            kept
            | {
                "SHOAL_SERVER": self.url,
                "SHOAL_TOKEN": self.token,
                "SHOAL_KEY_PASSPHRASE": PASSPHRASE,
                "PYTHONUNBUFFERED": "1",
                "NO_COLOR": "1",
            }
            | self.settings
        )

    def start_server(self) -> None:
        """Start the control plane and wait until it answers."""
        arguments = [
            program("shoal"), "serve", "--data", str(self.data), "--port", str(self.port),
            "--local-port", str(self.local_port), "--broker", self._broker,
            "--broker-port", str(self.broker_port),
        ]  # fmt: skip
        self.server = Program(
            "control plane", arguments, self.logs / "server.log", self.environment
        )
        self.server.wait_for(self._answers, "answer to /healthz", _START_S_MAX)
        if not self.token:
            self.token = self._printed_token()
            self._client.headers["Authorization"] = f"Bearer {self.token}"

    def notices(self) -> list[str]:
        """What the control plane wants a person to know of its broker."""
        assert self.server is not None
        lines = self.server.log.read_text().splitlines()
        return [line for line in lines if line.startswith("notice: ")]

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/healthz", timeout=2.0).status_code == httpx.codes.OK
        return False

    def _printed_token(self) -> str:
        assert self.server is not None
        found = re.search(r"\bshoal_[A-Za-z0-9_\-]{16,}", self.server.log.read_text())
        if found is None:
            raise ProgramError(f"the control plane printed no token:\n{self.server.tail()}")
        return found.group(0)

    def shoal(self, *words: str, accept: tuple[int, ...] = (0,)) -> str:
        """Run one `shoal` command as a person would; returns what it printed."""
        self._say("$ shoal " + " ".join(_readable(word, self.root) for word in words))
        ended = subprocess.run(
            [program("shoal"), *words],
            capture_output=True, text=True, check=False,
            env=self.environment, timeout=_COMMAND_S_MAX,
        )  # fmt: skip
        if ended.returncode not in accept:
            raise ProgramError(
                f"shoal {' '.join(words)} ended with {ended.returncode}:\n"
                f"{ended.stdout}{ended.stderr}"
            )
        return ended.stdout

    def watch(self, *words: str, accept: tuple[int, ...]) -> None:
        """Run one `shoal` command that takes a while, and say what it says as it says it."""
        self._say("$ shoal " + " ".join(words))
        heard: list[str] = []
        with subprocess.Popen(
            [program("shoal"), *words],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
        ) as running:  # fmt: skip
            assert running.stdout is not None
            for line in running.stdout:
                heard.append(line)
                self._say(line.rstrip())
        if running.returncode not in accept:
            raise ProgramError(
                f"shoal {' '.join(words)} ended with {running.returncode}:\n{''.join(heard)}"
            )

    def get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 (a parsed JSON document)
        """Ask the control plane's API."""
        return json.loads(self.fetch(path, **parameters))

    def fetch(self, path: str, **parameters: str) -> bytes:
        """Ask the control plane's API for something, byte for byte."""
        answer = self._client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.content

    def post(self, path: str, content: str = "") -> Any:  # noqa: ANN401 (as above)
        """Tell the control plane's API to do something."""
        headers = {"Content-Type": "application/json"} if content.startswith("{") else {}
        answer = self._client.post(path, content=content, headers=headers)
        answer.raise_for_status()
        return answer.json()

    def put(self, path: str, content: bytes) -> None:
        """Give the control plane's API something to keep."""
        self._client.put(path, content=content).raise_for_status()

    def publish(
        self, sample: str, version: str, *options: str, baseline: tuple[str, ...] = ()
    ) -> None:
        """Build, sign and publish one of the sample models; `baseline` are options of its own."""
        source, bundle = SAMPLES / sample, self.root / "bundles" / sample
        normal = ["--heldout", str(source / "heldout.npz")]
        if baseline:
            made = self.root / f"{sample}.baseline"
            self.shoal(
                "bundle", "baseline", str(source / "heldout.npz"), "--inputs", "image",
                "--scores", "probs", "--truth", "label",
                "--labels", str(source / "labels.txt"), *baseline, "--out", str(made),
            )  # fmt: skip
            normal = ["--baseline", str(made)]
        self.shoal(
            "bundle", "build", "--family", "digits", "--version", version,
            "--model", str(source / "model.tflite"), "--labels", str(source / "labels.txt"),
            "--golden", str(source / "golden.npz"), *normal, "--out", str(bundle),
        )  # fmt: skip
        self.shoal("release", "sign", str(bundle), "--keys", str(self.keys), *options)
        self.shoal("release", "publish", str(bundle))

    def enrol(self, count: int) -> None:
        """Invite and enrol `count` more devices, each with a state directory of its own."""
        answer = json.loads(
            self.shoal(
                "--output", "json", "device", "invite", "--uses", str(count), "--label", "site=demo"
            )
        )
        first = len(self.devices) + 1
        new = [Device(self, f"device-{number:02d}") for number in range(first, first + count)]
        pending = [device.begin_enrolment(answer["token"]) for device in new]
        for device, enrolment in zip(new, pending, strict=True):
            device.end_enrolment(enrolment)
            self.devices[device.id] = device

    def stop(self) -> None:
        """End every program; devices first, so that they can say goodbye."""
        for device in self.devices.values():
            if device.core is not None:
                device.core.terminate()
        for device in self.devices.values():
            device.stop()
        if self.server is not None:
            self.server.stop()
        self._client.close()


class Device:
    """One real agent with its own state."""

    def __init__(self, installation: Installation, name: str) -> None:
        self._installation = installation
        self.state = installation.root / "devices" / name
        self.state.mkdir(parents=True)
        self.run_dir = installation.root / "run" / name
        self.run_dir.mkdir(parents=True)
        self.id = name
        self.core: Program | None = None

    @property
    def socket(self) -> Path:
        """The local inference endpoint."""
        return self.run_dir / "inference.sock"

    def begin_enrolment(self, token: str) -> subprocess.Popen[str]:
        """Start to enrol; several devices can do so at once."""
        return subprocess.Popen(
            [
                program("shoal-agent"), "--state-dir", str(self.state), "enrol",
                "--server", f"https://127.0.0.1:{self._installation.port}",
                "--token", token, "--ca", str(self._installation.data / "ca.pem"),
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self._installation.environment,
        )  # fmt: skip

    def end_enrolment(self, pending: subprocess.Popen[str]) -> None:
        """Wait for the certificate; the id is the one that the control plane gave."""
        output, _ = pending.communicate(timeout=_COMMAND_S_MAX)
        if pending.returncode != 0:
            raise ProgramError(f"enrolment ended with {pending.returncode}:\n{output}")
        self.id = str(json.loads((self.state / "identity" / "agent.json").read_text())["device"])

    def start(self, **environment: str) -> None:
        """Start the agent; `environment` overrides its settings."""
        arguments = [
            program("shoal-agent"),
            "--state-dir",
            str(self.state),
            "run",
            "--run-dir",
            str(self.run_dir),
        ]
        settings = {
            "SHOAL_INFERENCE_SEGMENT_AGE_S": "1",
            "SHOAL_INFERENCE_WINDOW_AGE_S": "5",
        } | environment
        log = self._installation.logs / f"{self.id}.log"
        self.core = Program(
            f"agent {self.id}", arguments, log, self._installation.environment | settings
        )

    def require_running(self) -> None:
        """Raise ProgramError if the agent has ended."""
        if self.core is None or not self.core.is_running:
            said = self.core.tail() if self.core else "it was never started"
            raise ProgramError(f"agent {self.id} does not run:\n{said}")

    def worker_pid(self) -> int | None:
        """The process id of the inference worker, when there is one."""
        assert self.core is not None
        workers = (
            pid
            for pid in children_of(self.core.pid)
            if "agent.inference.worker" in command_line(pid)
        )
        return next(workers, None)

    def serves(self) -> bool:
        """Whether the endpoint has a model that is ready."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        with (
            contextlib.suppress(httpx.TransportError),
            httpx.Client(transport=transport, timeout=2.0) as client,
        ):
            return client.get("http://shoal/v2/models/digits/ready").status_code == httpx.codes.OK
        return False

    def stop(self) -> None:
        """End the agent and its worker."""
        if self.core is not None:
            self.core.stop()


def wait_until(is_true: Callable[[], bool], what: str, within_s: float) -> None:
    """Poll until `is_true()`; raises ProgramError when the time is over."""
    deadline = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline:
            raise ProgramError(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)


def remove(root: Path) -> None:
    """Remove all that an installation left on disk."""
    shutil.rmtree(root, ignore_errors=True)


def _readable(word: str, root: Path) -> str:
    if re.fullmatch(r"shoal_[A-Za-z0-9_\-]+", word):
        return "TOKEN"
    shortened = word.replace(f"{root}/", "").replace(f"{SAMPLES}/", "samples/digits/")
    return f'"{shortened}"' if " " in shortened or not shortened else shortened
