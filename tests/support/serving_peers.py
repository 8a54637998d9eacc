"""Other inference servers, each in an environment of its own that is made once and kept.

The environments lie under the cache directory of the user. Versions are pinned here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from support.peers import Missing

SCRIPTS: Final = Path(__file__).with_name("serving")

_ROOT: Final = Path(__file__).parents[2]
_READY_S_MAX: Final = 120.0
_RUNTIME: Final = "ai-edge-litert==2.3.0"
_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = {
    "MLServer 1.7.1": ("mlserver==1.7.1", _RUNTIME),
    "LitServe 0.2.19": ("litserve==0.2.19", _RUNTIME),
    "Starlette 1.10.0": (
        "starlette==1.10.0", "uvicorn==0.54.0", "httptools==0.9.0", "uvloop==0.23.0", _RUNTIME,
    ),
}  # fmt: skip


class Peer(NamedTuple):
    """A server that runs: its name, where it listens (as http_load wants it), its process."""

    name: str
    address: str
    pid: int


def mobilenet() -> Path:
    """Return MobileNetV2 0.35 int8, made with TensorFlow the first time. Raises Missing."""
    model = _cache() / "mobilenet_v2_035_224_int8.tflite"
    if not model.exists():
        pins = f"--constraint={_ROOT / 'constraints-training.txt'}"
        python = environment("tensorflow", (pins, "tensorflow-cpu"))
        new = model.with_suffix(".new")
        _run([str(python), str(SCRIPTS / "make_mobilenet.py"), str(new)], "MobileNetV2")
        new.replace(model)
    return model


@contextmanager
def running(name: str, model: Path, folder: Path) -> Iterator[Peer]:
    """Serve the digits model with a peer, one of `NAMES`. Raises Missing."""
    python = environment(name, _PACKAGES[name])
    command, address, extra = _command(name, model, folder)
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), *command],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": str(SCRIPTS), **extra},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _until_listening(address, process, folder / f"{name}.log")
            yield Peer(name, address, process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


NAMES: Final = tuple(_PACKAGES)


def _command(name: str, model: Path, folder: Path) -> tuple[list[str], str, dict[str, str]]:
    if name.startswith("Starlette"):
        path = folder / "starlette.sock"
        return [str(SCRIPTS / "starlette_server.py"), str(model), str(path)], f"unix:{path}", {}
    port = _free_port()
    if name.startswith("LitServe"):
        command = [str(SCRIPTS / "litserve_server.py"), str(model), str(port)]
        return command, f"tcp:{port}", {}
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": _free_port(),
        "metrics_endpoint": None, "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    facts = {"name": "digits", "implementation": "mlserver_digits.Digits"}
    (folder / "model-settings.json").write_text(json.dumps(facts))
    start = "from mlserver.cli import main; main()"
    command = ["-c", start, "start", str(folder)]
    return command, f"tcp:{port}", {"DIGITS_MODEL": str(model)}


def environment(name: str, packages: tuple[str, ...]) -> Path:
    """Return the interpreter of an environment with these packages. Raises Missing."""
    key = hashlib.sha256(repr((packages, sys.version)).encode()).hexdigest()[:12]
    folder = _cache() / f"{name.split(maxsplit=1)[0].lower()}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"makes an environment for {name} in {folder}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)], name)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*install, *packages], name)
        (folder / "complete").touch()
    return python


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise Missing(f"{name} could not be made: {last}")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "shoal-bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as asked:
        port: int = asked.getsockname()[1]
        return port


def _until_listening(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    kind, _, where = address.partition(":")
    ends = time.monotonic() + _READY_S_MAX
    while True:
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        with socket.socket(family) as line, suppress(OSError):
            line.connect(where if kind == "unix" else ("127.0.0.1", int(where)))
            return
        if process.poll() is not None or time.monotonic() > ends:
            tail = log.read_text(errors="replace").strip()[-300:]
            raise Missing(f"{log.stem} does not serve: {tail}")
        time.sleep(0.1)
