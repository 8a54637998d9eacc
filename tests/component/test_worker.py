"""The worker's promises.

Nothing answered is lost, a swap is never mixed up, a bad model is held off.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.deployment import slots
from agent.inference import control
from agent.inference.control import SelfTest, SelfTestAnswer, Swap, Unload
from agent.inference.supervisor import CONTROL_SOCKET, Supervisor
from agent.inference.worker_client import WorkerClient
from agent.store.buffer import Buffer
from firmware_bundles.errors import (
    ModelUnusable,
    SelfTestFailed,
    SlotBroken,
    WorkerUnavailable,
)
from firmware_bundles.wire.messages import SegmentKind
from support import spool, workers
from support.bundles import Sample, images, turned
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"


class Load(threading.Thread):
    """A client that asks all the time, and keeps what it was answered."""

    def __init__(self, device: Device) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[int, str, list[float]]] = []
        self.ids: list[str] = []
        self.failures = 0
        self._device = device
        self._ending = threading.Event()

    def run(self) -> None:
        """Ask until stopped; a connection that dies is opened again."""
        requests = [json.dumps(infer(image)).encode() for image in images(40)]
        place = 0
        while not self._ending.is_set():
            with self._device.connection() as connection:
                try:
                    while not self._ending.is_set():
                        place += 1
                        self._ask(connection, place % 40, requests)
                except (OSError, http.client.HTTPException):
                    self.failures += 1

    def _ask(
        self, connection: http.client.HTTPConnection, which: int, requests: list[bytes]
    ) -> None:
        connection.request("POST", INFER, requests[which])
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert answer.status == 200, told
        self.ids.append(told["parameters"]["prediction_id"])
        self.answers.append((which, told["model_version"], told["outputs"][0]["data"]))

    def end(self) -> None:
        """Stop asking."""
        self._ending.set()
        self.join(10)


@contextmanager
def loads_on(device: Device, count: int) -> Iterator[list[Load]]:
    """Let clients ask all the time."""
    loads = [Load(device) for _ in range(count)]
    for load in loads:
        load.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.end()


def test_what_was_answered_is_sealed_exactly_once_though_the_worker_is_killed(
    tmp_path: Path,
) -> None:
    """Under load and SIGKILL every answer's row reaches the buffer, once, and serving resumes."""
    Sample("v1").watch(window_rows=30).put(tmp_path, "A")
    with workers.device(tmp_path) as device:
        with (
            device.running(segment_age_s=0.1, flush_ms=10),
            loads_on(device, 3) as loads,
        ):
            away_s = [_kill_after_answers(device, loads) for _ in range(3)]
            assert device.supervisor.deaths == 3
        with device.running(segment_age_s=0.1):
            incarnation = device.status().incarnation
            answered = [each for load in loads for each in load.ids]
            assert not any(each.startswith(incarnation) for each in answered)
            workers.wait_until(lambda: _sealed(tmp_path) >= Counter(answered))
        sealed = _sealed(tmp_path)
        assert set(sealed.values()) == {1}
        # A row whose answer was on its way when the worker died may be there too: one a client.
        assert len(answered) <= len(sealed) <= len(answered) + 3 * len(loads)
        assert _window_rows(tmp_path) == len(sealed)
        assert min(away_s) < 5


def _kill_after_answers(device: Device, loads: list[Load]) -> float:
    """Kill the worker in the middle of work; return how long no answer came, in seconds."""
    before = sum(len(load.ids) for load in loads)
    workers.wait_until(lambda: sum(len(load.ids) for load in loads) > before + 60)
    deaths = device.supervisor.deaths
    device.kill()
    killed = time.monotonic()
    workers.wait_until(lambda: device.supervisor.deaths > deaths)
    before = sum(len(load.ids) for load in loads)
    workers.wait_until(lambda: sum(len(load.ids) for load in loads) > before)
    return time.monotonic() - killed


def test_an_orderly_end_seals_everything(tmp_path: Path) -> None:
    """After SIGTERM nothing is left to recover but open windows."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device:
        with device.running(), device.client() as client:
            answers = [client.post(INFER, json=infer(image)) for image in images(5)]
        ids = [answer.json()["parameters"]["prediction_id"] for answer in answers]
        assert _sealed(tmp_path) == Counter(ids)


def test_answers_under_a_swap_are_of_the_version_they_name(tmp_path: Path) -> None:
    """Back and forth under load: no request fails, and each answer is its own version's."""
    Sample("v1").put(tmp_path, "A")
    Sample("v2").put(tmp_path, "B", serve=False)
    root = tmp_path / "slots"
    with workers.device(tmp_path) as device, device.running():
        expected = {}
        for name, version in (("A", "v1"), ("B", "v2")):
            slots.switch(root, slots.slot(root, "digits", name))
            device.call(Swap("digits"))
            with device.client() as client:
                for place, image in enumerate(images(40)):
                    told = client.post(INFER, json=infer(image)).json()
                    assert told["model_version"] == version
                    expected[place, version] = told["outputs"][0]["data"]
        assert sum(expected[place, "v1"] != expected[place, "v2"] for place in range(40)) >= 30
        with loads_on(device, 2) as loads:
            for turn in range(10):
                slots.switch(root, slots.slot(root, "digits", "AB"[turn % 2]))
                device.call(Swap("digits"))
        answers = [each for load in loads for each in load.answers]
        assert {version for _, version, _ in answers} == {"v1", "v2"}
        assert all(expected[place, version] == data for place, version, data in answers)
        assert sum(load.failures for load in loads) == 0
        assert device.supervisor.deaths == 0


def test_a_swap_to_a_broken_slot_changes_nothing(tmp_path: Path) -> None:
    """The old model answers on, and the refusal says what is wrong."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running():
        slots.switch(tmp_path / "slots", slots.slot(tmp_path / "slots", "digits", "B"))
        with pytest.raises(SlotBroken, match="no readable manifest"):
            device.call(Swap("digits"))
        assert device.status().families["digits"].version == "v1"


def test_an_unloaded_family_is_not_ready(tmp_path: Path) -> None:
    """After Unload the family answers 503 with the reason."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running(), device.client() as client:
        device.call(Unload("digits"))
        answer = client.post(INFER, json=infer(images(1)[0]))
        assert answer.status_code == 503
        assert answer.json() == {"error": "model 'digits' is not ready: it was unloaded"}


def test_a_good_model_passes_its_self_test(tmp_path: Path) -> None:
    """The self-test measures a slot that does not serve, and leaves the serving one alone."""
    Sample("v1").put(tmp_path, "A")
    digest = Sample("v2").put(tmp_path, "B", serve=False)
    with workers.device(tmp_path) as device, device.running():
        answer = device.call(SelfTest("digits", "B"))
        assert isinstance(answer, SelfTestAnswer)
        assert (answer.digest, answer.rows) == (digest, 32)
        assert answer.difference_lsb_max <= 2
        assert device.status().families["digits"].version == "v1"


def test_a_bad_model_fails_its_self_test_cleanly(tmp_path: Path) -> None:
    """A cut file, other golden vectors, a hang: each a refusal with its reason; serving goes on."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running():
        cut = Sample("v2")
        cut.files["model.tflite"] = cut.files["model.tflite"][:9000]
        cut.put(tmp_path, "B", serve=False)
        with pytest.raises(ModelUnusable, match="cannot load model"):
            device.call(SelfTest("digits", "B"))

        foreign = Sample("v2")
        foreign.files["golden.msgpack"] = turned(foreign.files["golden.msgpack"])
        foreign.put(tmp_path, "B", serve=False)
        with pytest.raises(SelfTestFailed, match="golden vector 0: output 'probs' is off by"):
            device.call(SelfTest("digits", "B"))

        with pytest.raises(SelfTestFailed, match=r"did not end within 0\.01 seconds"):
            device.call(SelfTest("digits", "A", deadline_s=0.01))
        assert device.status().families["digits"].ready
        assert device.supervisor.deaths == 0


def test_a_worker_ends_when_its_supervisor_is_gone(tmp_path: Path) -> None:
    """No worker is left behind by a core that was killed: its lifeline closes."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running():
        assert device.status().families["digits"].ready
        pid = device.supervisor.pid
        assert pid is not None
        lifeline = device.supervisor._lifeline
        assert lifeline is not None
        os.close(lifeline[1])
        device.supervisor._lifeline = (lifeline[0], os.open(os.devnull, os.O_WRONLY))
        workers.wait_until(lambda: device.supervisor.deaths == 1)


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    """One that is stopped falls silent, is killed, and the next one answers; nobody asked for it.

    Ctrl-C at a terminal is not among what may stop it: it is in another process group.
    """
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running(watchdog_s=1):
        core = WorkerClient(device.run_dir / CONTROL_SOCKET)
        incarnation = asyncio.run(core.status()).incarnation
        assert core.deaths() == 0
        pid = device.supervisor.pid
        assert pid is not None
        assert os.getpgid(pid) == pid != os.getpgid(0)
        os.kill(pid, signal.SIGSTOP)
        with device.client() as client:
            assert client.post(INFER, json=infer(images(1)[0])).status_code == 200
        assert device.supervisor.deaths == 1
        assert asyncio.run(core.status()).incarnation != incarnation
        assert core.deaths() == 1  # as a core counts it that started no worker


def test_a_worker_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    """The core's questions end in an error of the project."""
    with workers.device(tmp_path) as device:
        with device.running():
            device.status()
        with device.running():
            pid = device.supervisor.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(WorkerUnavailable, match="did not answer Unload"):
                device.call(Unload("digits"), timeout_s=0.2)
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(WorkerUnavailable, match="did not answer Status"):
            asyncio.run(control.status(device.run_dir / CONTROL_SOCKET))


def _sealed(state_dir: Path) -> Counter[str]:
    store = Buffer(state_dir / "spool" / "buffer.db")
    found = spool.segments(store)
    store.close()
    rows = spool.sealed_rows(found, SegmentKind.PREDICTIONS)
    return Counter({f"{incarnation}-{number}": n for (incarnation, number), n in rows.items()})


def _window_rows(state_dir: Path) -> int:
    store = Buffer(state_dir / "spool" / "buffer.db")
    found = spool.segments(store)
    incarnations = {segment.key.incarnation for segment in found}
    still_open = sum(w.rows for each in incarnations for w in store.windows(each))
    store.close()
    return still_open + sum(s.rows for s in found if s.key.kind is SegmentKind.WINDOW)


def test_an_end_in_the_middle_of_a_self_test_is_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGTERM ends the child with the worker; the log has no traceback, the core an error."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running():
        device.status()
        pid = device.supervisor.pid
        assert pid is not None
        with ThreadPoolExecutor() as pool:
            testing = pool.submit(device.call, SelfTest("digits", "A"))
            workers.wait_until(lambda: bool(_children(pid)))
            (child,) = _children(pid)
            os.kill(pid, signal.SIGTERM)
            with pytest.raises(WorkerUnavailable):
                testing.result()
        workers.wait_until(lambda: device.supervisor.deaths == 1)
        assert not Path(f"/proc/{child}").exists()
        device.status()
    told = capfd.readouterr().err
    assert "event=stopped" in told
    assert "Traceback" not in told
    assert "unhandled" not in told


def test_a_damaged_buffer_does_not_stop_a_device_from_serving(tmp_path: Path) -> None:
    """It is put aside, and a new one takes its place."""
    Sample("v1").put(tmp_path, "A")
    spool_dir = tmp_path / "spool"
    spool_dir.mkdir()
    (spool_dir / "buffer.db").write_bytes(b"not a database " * 1000)
    with workers.device(tmp_path) as device:
        with device.running(), device.client() as client:
            assert client.post(INFER, json=infer(images(1)[0])).status_code == 200
        assert device.supervisor.deaths == 0
    assert (spool_dir / "buffer.db.damaged").exists()
    assert sum(_sealed(tmp_path).values()) == 1


def test_a_worker_is_ours_whatever_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called `agent` beside the person who starts it is no part of it."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "__init__.py").write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    with workers.device(tmp_path / "state") as device, device.running():
        assert device.status().families == {}
        assert device.supervisor.deaths == 0


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """The supervisor does not give up: what fails now may pass."""

    async def run() -> int:
        with tempfile.TemporaryDirectory(prefix="shoal-") as run_dir:
            supervisor = Supervisor(tmp_path, Path(run_dir), python="/nonexistent/python")
            await supervisor.start()
            await asyncio.to_thread(workers.wait_until, lambda: supervisor.deaths >= 2)
            await supervisor.stop()
        return supervisor.deaths

    assert asyncio.run(run()) >= 2


def test_sockets_that_cannot_be_bound_are_told_in_a_sentence(tmp_path: Path) -> None:
    """The first of them is given back, and stopping what did not start is no fault."""

    async def run(run_dir: Path) -> None:
        supervisor = Supervisor(tmp_path, run_dir)
        with pytest.raises(WorkerUnavailable, match="cannot be bound"):
            await supervisor.start()
        await supervisor.stop()

    with tempfile.TemporaryDirectory(prefix="shoal-") as name:
        (Path(name) / CONTROL_SOCKET).mkdir()
        asyncio.run(run(Path(name)))
        assert [each.name for each in Path(name).iterdir()] == [CONTROL_SOCKET]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]
