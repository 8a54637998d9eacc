"""Models that are not quick: they run in threads, in turn, and what is too much is refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from agent.deployment import slots
from agent.inference import breadcrumbs, deaths, served
from agent.inference.backends import Backend, LiteRtBackend
from agent.inference.breadcrumbs import Act
from agent.inference.guarded import Guard
from agent.inference.http import Request, Response
from agent.inference.pool import Pool
from agent.inference.protocol import Endpoint, EndpointLimits
from agent.inference.quantization import Stored
from agent.inference.registry import Registry
from agent.store import buffer
from agent.store.buffer import Buffer
from agent.telemetry.feedback import Feedback
from agent.telemetry.recorder import Pace, Recorder
from firmware_bundles.errors import InputRefused
from support.bundles import SAMPLES, Sample, images
from support.workers import infer

BODY = json.dumps(infer(images(1)[0])).encode()
INFER = Request(
    "POST", "/v2/models/digits/infer", {b"content-length": b"%d" % len(BODY)}, BODY, is_last=False
)
QUICK = EndpointLimits(
    threads=1, waiting_max=1, answer_s_max=30, body_bytes_max=10_000, compress_bytes_min=0
)


class Gated:
    """A backend that waits at a gate."""

    def __init__(self, backend: Backend) -> None:
        self.runtime, self.delegate = backend.runtime, backend.delegate
        self.gate = threading.Event()
        self._backend = backend

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Answer once the gate is open."""
        self.gate.wait(30)
        return self._backend.run(inputs)


@contextmanager
def _endpoint(folder: Path, limits: EndpointLimits) -> Iterator[tuple[Endpoint, Gated, Recorder]]:
    """Serve digits as if they were slow, behind a gate."""
    Sample("v1").put(folder, "A")
    (folder / "spool").mkdir()
    buffer.ensure(folder / "spool" / "buffer.db")
    store = Buffer(folder / "spool" / "buffer.db", 2**20)

    def on_event(*_: object, **__: object) -> None:
        pass

    recorder = Recorder(folder / "spool", store, "0" * 16, Pace(), on_event)
    guard = Guard(folder / "spool", on_event)
    registry = Registry(folder / "slots", recorder, guard, on_event)
    registry.start()
    model = registry.serving["digits"].model
    model.is_quick = False
    gated = Gated(model.backend)
    model.backend = gated
    try:
        yield (
            Endpoint(registry, recorder, Feedback(recorder, store), limits, on_event),
            gated,
            recorder,
        )
    finally:
        gated.gate.set()
        store.close()


async def _answer(endpoint: Endpoint) -> Response:
    outcome = endpoint(INFER)
    return outcome if isinstance(outcome, Response) else await outcome


def test_what_is_too_much_is_told_to_come_later(tmp_path: Path) -> None:
    """One runs, one waits, the third is 429; after that there is room again."""

    async def run(endpoint: Endpoint, gated: Gated) -> None:
        first, second = (asyncio.create_task(_answer(endpoint)) for _ in range(2))
        await asyncio.sleep(0)
        third = await _answer(endpoint)
        assert (third.status, b"retry-after: 1\r\n" in third.headers) == (429, True)
        assert json.loads(third.body)["error"].startswith("2 requests are being computed or wait")
        gated.gate.set()
        assert [(await each).status for each in (first, second)] == [200, 200]
        assert (await _answer(endpoint)).status == 200

    with _endpoint(tmp_path, QUICK) as (endpoint, gated, recorder):
        asyncio.run(run(endpoint, gated))
        assert recorder.last_sequence == 3


def test_what_takes_too_long_is_refused_and_not_recorded(tmp_path: Path) -> None:
    """An answer that nobody got is no prediction, and a failure of the model's."""
    with _endpoint(tmp_path, QUICK._replace(answer_s_max=0.05)) as (endpoint, _, recorder):
        answer = asyncio.run(_answer(endpoint))
        assert (answer.status, recorder.last_sequence) == (503, 0)
        assert b"did not answer within 0.05 seconds" in answer.body
        status = endpoint._registry.status("digits")
        assert (status.answered, status.errors) == (0, 1)


@pytest.mark.parametrize("clients", [6])
def test_interpreters_of_a_pool_never_mix_answers(clients: int) -> None:
    """More threads than interpreters, and each gets the answer to its own input."""
    manifest = Sample("v1").manifest()
    path = SAMPLES / "v1" / "model.tflite"
    backends = [LiteRtBackend(path, manifest) for _ in range(3)]
    pool = Pool(cast("list[Backend]", backends))
    inputs = [(np.rint(each * 255) - 128).astype(np.int8) for each in images(60)]
    wanted = [backends[0].run([each])[0].tolist() for each in inputs]
    wrong: list[int] = []

    def ask() -> None:
        for place, each in enumerate(inputs * 5):
            if pool.run([each])[0].tolist() != wanted[place % 60]:
                wrong.append(place)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_each_interpreter_of_a_pool_refuses_what_killed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each answers everything else."""
    monkeypatch.setattr(served, "QUICK_US_MAX", -1.0)
    model = Sample("v1").put(tmp_path, "A")
    poison, other = ([np.full((1, 8, 8, 1), each, dtype=np.int8)] for each in (1, 2))
    death = deaths.Death(
        time=time.time(),
        act=Act.INVOKING,
        family="digits",
        model=model,
        input=breadcrumbs.digest(poison).hex(),
    )
    deaths.Register(tmp_path).add([death, death], death.time)
    guard = Guard(tmp_path, lambda *_, **__: None)
    slot = slots.slot(tmp_path / "slots", "digits", "A")
    pool = served.load(slot, guard, interpreters=3).backend
    assert isinstance(pool, Pool)
    for each in [pool._free.get() for _ in range(3)]:
        with pytest.raises(InputRefused, match="took the inference worker down twice"):
            each.run(poison)
        assert len(each.run(other)) == 1
