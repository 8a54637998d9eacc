"""The endpoint under load, next to the bare interpreter and to other servers.

Everything is measured in rotation, five rounds, and medians of the rounds are told. Recorder and
sketches are on, as they always are. The load is a C program in a process of its own, which checks
every answer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from agent.inference.supervisor import INFERENCE_SOCKET
from firmware_bundles import chunks, golden, model_facts
from support import benchmark, process_cost, serving_peers, workers
from support.benchmark import Limit, Report
from support.bundles import SAMPLES, Sample, images
from support.peers import Missing
from support.serving_peers import SCRIPTS, Peer

_DIGITS: Final = SAMPLES / "v1" / "model.tflite"
_LOAD_SOURCE: Final = Path(__file__).parents[1] / "support" / "http_load.c"
_CONNECTIONS: Final = 32
_SECONDS: Final = 1.5
_GOLDEN_ROWS: Final = 8
_OURS: Final = "shoal"
_MLSERVER: Final = serving_peers.NAMES[0]
_EXPECTED: Final = '"datatype":"INT8"'  # as every server here writes it

Measured = dict[str, float]


class _Raw:
    """The bare interpreter in a process of its own, waiting between the rounds."""

    def __init__(self, model: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPTS / "raw_call.py"), str(model)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def measure(self) -> Measured:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{_SECONDS / 2}\n")
        process.stdin.flush()
        found: Measured = json.loads(process.stdout.readline())
        return found

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def _raw(model: Path) -> Iterator[_Raw]:
    made = _Raw(model)
    try:
        yield made
    finally:
        made.close()


class _Load:
    """The load generator, compiled."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "http_load"
        subprocess.run(["cc", "-O2", "-o", self._program, _LOAD_SOURCE], check=True)

    def on(self, address: str, connections: int, request: Path, expected: str) -> Measured:
        """Load a server; every answer must be a good one."""
        done = subprocess.run(
            [self._program, address, str(connections), str(_SECONDS), request, expected],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: Measured = json.loads(done.stdout)
        assert found["bad"] == 0, done.stderr
        return found


def _request(path: Path, family: str, body: bytes, headers: str = "") -> Path:
    head = (
        f"POST /v2/models/{family}/infer HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    )
    path.write_bytes(head.encode() + body)
    return path


def _digits_request(folder: Path) -> Path:
    steps = (np.rint(images(1).ravel() * 255) - 128).astype(int).tolist()
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8", "data": steps}
    return _request(folder / "digits", "digits", json.dumps({"inputs": [given]}).encode())


def _memory_mb(pid: int) -> float:
    """Return what a server's processes hold, together."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(each) for task in tasks for each in (task / "children").read_text().split()]
    return process_cost.memory_mb(pid)["Rss"] + sum(_memory_mb(each) for each in children)


def _digits(folder: Path, load: _Load, rounds: int) -> tuple[list[Limit], dict[str, Any]]:
    state_dir = folder / "digits_state"
    Sample("v1").put(state_dir, "A")
    figures: dict[str, Any] = {}
    request = _digits_request(folder)
    with ExitStack() as stack:
        device = stack.enter_context(workers.device(state_dir))
        stack.enter_context(device.running())
        pid = device.supervisor.pid
        assert pid is not None
        servers = [Peer(_OURS, f"unix:{device.run_dir / INFERENCE_SOCKET}", pid)]
        for name in serving_peers.NAMES:
            try:
                servers.append(
                    stack.enter_context(serving_peers.running(name, _DIGITS, _empty(folder, name)))
                )
            except Missing as missing:
                figures[name] = str(missing)
        raw = stack.enter_context(_raw(_DIGITS))
        found = _rounds(servers, raw, load, request, rounds)
        memory = {server.name: _memory_mb(server.pid) for server in servers}
    for name, server in found.items():
        figures |= {f"{name}: {what}": value for what, value in server.items()}
    figures |= {f"{name}: RSS, MB": value for name, value in memory.items()}
    return _digits_limits(found, memory), figures


def _empty(folder: Path, name: str) -> Path:
    made = folder / name.split(maxsplit=1)[0]
    made.mkdir()
    return made


def _rounds(
    servers: list[Peer], raw: _Raw, load: _Load, request: Path, rounds: int
) -> dict[str, Measured]:
    """Measure all in rotation; return the medians of each."""
    seen: dict[str, dict[str, list[float]]] = {"raw call": {}}
    for _ in range(rounds):
        _note(seen["raw call"], {f"{key}": value for key, value in raw.measure().items()})
        for server in servers:
            mine = seen.setdefault(server.name, {})
            alone = load.on(server.address, 1, request, _EXPECTED)
            _note(mine, {"min_us": alone["min_us"], "p50_us": alone["p50_us"]})
            crowd = load.on(server.address, _CONNECTIONS, request, _EXPECTED)
            _note(mine, {f"answers/s at {_CONNECTIONS} connections": crowd["per_s"]})
    return {
        name: {what: median(values) for what, values in each.items()} for name, each in seen.items()
    }


def _note(seen: dict[str, list[float]], found: Measured) -> None:
    for what, value in found.items():
        seen.setdefault(what, []).append(value)


def _digits_limits(found: dict[str, Measured], memory: dict[str, float]) -> list[Limit]:
    rate = f"answers/s at {_CONNECTIONS} connections"
    peer = found.get(_MLSERVER, {}).get(rate, float("nan"))
    ours = found[_OURS]
    return [
        Limit(what="answers/s, times MLServer's", value=ours[rate] / peer, unit="x", limit=10,
              bound=">="),
        Limit(what="least latency above the raw call",
              value=ours["min_us"] - found["raw call"]["min_us"], unit="us", limit=80),
        Limit(what="resident memory, times MLServer's",
              value=memory[_OURS] / memory.get(_MLSERVER, float("nan")), unit="x", limit=0.5),
    ]  # fmt: skip


def _mobilenet_sample(model: Path) -> Sample:
    """Return a bundle around the model: one golden vector, eight times; nothing to classify."""
    from ai_edge_litert.interpreter import Interpreter

    data = model.read_bytes()
    facts = model_facts.read(data)
    interpreter = Interpreter(model_path=str(model))
    interpreter.allocate_tensors()
    given, gives = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    stored = np.zeros(given["shape"], dtype=np.int8)
    interpreter.set_tensor(given["index"], stored)
    interpreter.invoke()
    answer = interpreter.get_tensor(gives["index"])
    sample = Sample("v1")
    sample.family, sample.inputs, sample.outputs = "mobilenet", facts.inputs, facts.outputs
    sample.rows, sample.classification = _GOLDEN_ROWS, None
    vectors = golden.GoldenVectors(
        inputs={facts.inputs[0].name: _real(stored, facts.inputs[0])},
        outputs={facts.outputs[0].name: _real(answer, facts.outputs[0])},
        labels=(),
    )
    sample.files = {"model.tflite": data, "golden.msgpack": golden.encode(vectors)}
    return sample


def _real(stored: Any, tensor: Any) -> golden.RealArray:  # noqa: ANN401 - arrays
    real = ((stored.astype(np.float32) - tensor.zero_point) * tensor.scale).astype("<f4")
    real = np.repeat(real, _GOLDEN_ROWS, axis=0)
    return golden.RealArray(shape=real.shape, data=real.tobytes())


def _mobilenet_request(folder: Path, sample: Sample) -> Path:
    tensor = sample.inputs[0]
    data = np.zeros(tensor.shape, dtype=np.int8).tobytes()
    given = {
        "name": tensor.name, "shape": tensor.shape, "datatype": "INT8",
        "parameters": {"binary_data_size": len(data)},
    }  # fmt: skip
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return _request(folder / "mobilenet", "mobilenet", head + data, length)


def _mobilenet(folder: Path, load: _Load, rounds: int) -> tuple[list[Limit], dict[str, Any]]:
    try:
        model = serving_peers.mobilenet()
    except Missing as missing:
        return [_mobilenet_limit(float("nan"))], {"MobileNetV2": str(missing)}
    sample = _mobilenet_sample(model)
    state_dir = folder / "mobilenet_state"
    sample.put(state_dir, "A")
    request = _mobilenet_request(folder, sample)
    raw_us: list[float] = []
    ours_us: list[float] = []
    least: list[float] = []
    many_per_s: list[float] = []
    with workers.device(state_dir) as device, device.running(), _raw(model) as raw:
        address = f"unix:{device.run_dir / INFERENCE_SOCKET}"
        expected = '"binary_data_size":1000'
        device.status()  # it is ready
        for _ in range(rounds):
            bare, ours = raw.measure(), load.on(address, 1, request, expected)
            raw_us.append(bare["p50_us"])
            ours_us.append(ours["p50_us"])
            least.append(ours["min_us"] / bare["min_us"])
            many_per_s.append(load.on(address, 4, request, expected)["per_s"])
        memory = device.status().memory_bytes / 1e6
    ratio = median(own / its for own, its in zip(ours_us, raw_us, strict=True))
    figures = {
        "MobileNetV2: raw call, p50, us": median(raw_us),
        "MobileNetV2: shoal, one connection, p50, us": median(ours_us),
        "MobileNetV2: least times, times the raw call's": median(least),
        "MobileNetV2: shoal, four connections, answers/s": median(many_per_s),
        "MobileNetV2: shoal, RSS, MB": memory,
        "MobileNetV2: digest": chunks.digest_of(model.read_bytes())[:12],
    }
    return [_mobilenet_limit(ratio)], figures


def _mobilenet_limit(ratio: float) -> Limit:
    """Return the limit; one that could not be measured is not kept."""
    what = "MobileNetV2 by binary tensor, times the raw call"
    return Limit(what=what, value=ratio, unit="x", limit=1.3)


def measure(rounds: int) -> Report:
    """Measure digits against all, then MobileNetV2 against the bare interpreter."""
    with tempfile.TemporaryDirectory(prefix="shoal-") as name:
        folder = Path(name)
        load = _Load(folder)
        limits, figures = _digits(folder, load, rounds)
        more, further = _mobilenet(folder, load, rounds)
    return Report(limits=[*limits, *more], figures={"rounds": rounds, **figures, **further})


if __name__ == "__main__":
    sys.exit(benchmark.main("serve", measure, numbers={"rounds": 5}))
