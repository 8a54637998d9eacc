"""Accelerators: one that works serves; whatever another one does, the CPU answers, and says why."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from agent.deployment import slots
from agent.inference import losses, served
from agent.inference.control import FamilyStatus, Swap
from agent.inference.worker import SPOOL
from firmware_bundles import golden
from support import delegates, float_models, workers
from support.bundles import SAMPLES, Reals, Sample, images
from support.delegate_faults import FAULTS
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"
COUNT = 10

pytestmark = pytest.mark.needs("gcc")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device with a good model, not yet running."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as made:
        yield made


def status(device: Device) -> FamilyStatus:
    """Return what is said of the model."""
    return device.status().families["digits"]


def cpu_answers(state_dir: Path) -> Reals:
    """Return what the CPU answers for the first images."""
    model = served.load(slots.slot(state_dir / "slots", "digits", "A"))
    (port,), (output,) = model.inputs, model.outputs
    answers = [model.run([port.store(image.ravel())])[0] for image in images(COUNT)]
    return np.array([output.real(each) for each in answers])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Asking:
    """Asks for the first images; each answer must be the CPU's, but for two steps."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._expected = cpu_answers(device.state_dir)

    def once(self) -> None:
        """Ask once for each image."""
        with self._device.client() as client:
            told = [client.post(INFER, json=infer(image)) for image in images(COUNT)]
        assert [each.status_code for each in told] == [200] * COUNT, told[-1].text
        data = np.array([each.json()["outputs"][0]["data"] for each in told])
        assert np.abs(data - self._expected).max() <= 2.01 / 256

    def until(self, holds: Callable[[FamilyStatus], bool]) -> FamilyStatus:
        """Ask until the model's status is as wanted, and return that."""

        def asked() -> bool:
            self.once()
            return holds(status(self._device))

        workers.wait_until(asked, 100)
        return status(self._device)


def test_whatever_an_accelerator_does_in_its_probe_the_cpu_answers_and_the_next_is_tried(
    device: Device,
) -> None:
    """Every fault is refused with its reason, the worker lives, one that recovers serves."""
    broken = device.state_dir / "broken"
    broken.touch()
    entries = [delegates.entry(each.options, name=each.name, **each.settings) for each in FAULTS]
    options = {"take": "some", "fault": "error", "at": "load", "when": str(broken)}
    entries.append(delegates.entry(options, name="recovers", retry_s=0.1))
    delegates.write(device.state_dir, *entries)
    with device.running():
        asking = Asking(device)
        refused = asking.until(lambda told: "recovers: ai-edge" in told.delegate_reason)
        assert refused.delegate == "cpu"
        for fault in FAULTS:
            assert re.search(rf"{fault.name}: [^;]*{fault.said}", refused.delegate_reason), fault
        broken.unlink()
        served_by = asking.until(lambda told: told.delegate == "recovers")
        assert "recovers took 2 of 8 operations in 2 nodes" in served_by.delegate_reason
        asking.once()
        assert device.supervisor.deaths == 0


def test_an_accelerator_that_takes_the_whole_graph_is_counted_so(device: Device) -> None:
    """All operations by one node, beside no other; what it does not know, the CPU answers."""
    model = served.load(slots.slot(device.state_dir / "slots", "digits", "A"))
    path = model.bundle.slot.directory / model.manifest.golden.file
    vectors = golden.parse(path.read_bytes()).inputs["image"]
    real = np.frombuffer(vectors.data, dtype="<f4").reshape(vectors.shape)
    inputs = np.array([model.inputs[0].store(each.ravel()) for each in real])
    outputs = np.array([model.run([each])[0] for each in inputs])
    table = device.state_dir / "answers"
    delegates.answers(table, inputs, outputs)
    delegates.write(
        device.state_dir, delegates.entry({"take": "all", "answers": str(table)}, exclusive=True)
    )
    with device.running():
        workers.wait_until(lambda: status(device).delegate == "fake")
        assert "fake took 8 of 8 operations in one node" in status(device).delegate_reason
        asking = Asking(device)
        told = asking.until(lambda told: told.delegate == "cpu")
        assert "failed to invoke" in told.delegate_reason


def test_an_accelerator_that_is_faster_is_taken_for_that(device: Device) -> None:
    """By what was measured, both beside each other: a model that takes the CPU long."""
    slow = float_models.slowed(
        float_models.dequantized((SAMPLES / "v2" / "model.tflite").read_bytes()), 512
    )
    sample = float_models.bundle(slow)
    sample.put(device.state_dir, "B")
    vectors = golden.parse(sample.files["golden.msgpack"])
    rows, answers = (
        np.frombuffer(each.data, dtype="<f4").reshape(vectors.rows, -1)
        for each in (vectors.inputs["image"], vectors.outputs["probs"])
    )
    table = device.state_dir / "answers"
    delegates.answers(table, rows, answers)
    options = {"take": "all", "answers": str(table)}
    delegates.write(device.state_dir, delegates.entry(options, may_be_slower=False))
    with device.running():
        workers.wait_until(lambda: status(device).delegate == "fake")
        told = re.fullmatch(
            r"fake took 10 of 10 operations in one node, (\d+) us, (\d+) us on the CPU",
            status(device).delegate_reason,
        )
        assert told is not None
        assert int(told[1]) < int(told[2])
        with device.client() as client:
            answer = client.post(INFER, json=infer(rows[3])).json()
        assert np.allclose(answer["outputs"][0]["data"], answers[3], atol=1e-5)
        assert status(device).delegate == "fake"


def test_an_accelerator_that_fails_in_service_is_dropped_without_a_failed_answer(
    device: Device,
) -> None:
    """An error, a hang, a crash, wrong answers: the CPU answers, and the worker lives."""
    when = {name: device.state_dir / name for name in ("errs", "hangs", "dies", "lies")}
    faults = ({"fault": "error"}, {"fault": "hang"}, {"fault": "crash"}, {"fault": "wrong"})
    settings: tuple[dict[str, object], ...] = ({}, {"invoke_s_max": 0.5}, {}, {"check_s": 0.1})
    delegates.write(
        device.state_dir,
        *(
            delegates.entry({**fault, "when": str(when[name])}, name=name, **more)
            for name, fault, more in zip(when, faults, settings, strict=True)
        ),
    )
    with device.running():
        asking = Asking(device)
        for name in ("errs", "hangs", "dies"):
            asking.until(lambda told, name=name: told.delegate == name)  # type: ignore[misc]
            when[name].touch()
        asking.until(lambda told: told.delegate == "lies")
        when["lies"].touch()  # nobody asks until that is found
        workers.wait_until(lambda: "lies: its answers" in status(device).delegate_reason)
        asking.once()
        told = status(device)
        assert told.delegate == "cpu"
        assert (told.errors, device.supervisor.deaths) == (0, 0)
        assert re.fullmatch(
            "errs: .*failed to invoke.*; hangs: it did not answer within 0.5 seconds; "
            "dies: its process died by SIGSEGV; "
            "lies: its answers became wrong: .* is off by .*",
            told.delegate_reason,
            re.DOTALL,
        )


def test_a_crash_of_an_exclusive_accelerator_is_one_restart_of_the_worker(device: Device) -> None:
    """It has no process of its own: who was being answered is cut off, the next one is served."""
    when = device.state_dir / "dies"
    delegates.write(
        device.state_dir,
        delegates.entry({"fault": "crash", "when": str(when)}, name="dies", exclusive=True),
    )
    with device.running():
        asking = Asking(device)
        asking.until(lambda told: told.delegate == "dies")
        when.touch()
        with device.client() as client, pytest.raises(httpx.TransportError):
            client.post(INFER, json=infer(images(1)[0]))
        asking.once()
        told = asking.until(lambda told: "dies: " in told.delegate_reason)
        assert (told.delegate, told.delegate_reason) == ("cpu", f"dies: {losses.DIED}")
        assert device.supervisor.deaths == 1


def test_an_accelerators_process_ends_with_its_worker_and_with_its_model(device: Device) -> None:
    """Whoever is killed or swapped leaves no process behind."""
    Sample("v2").put(device.state_dir, "B", serve=False)
    pids = device.state_dir / "pids"
    delegates.write(device.state_dir, delegates.entry({"pids": str(pids)}, retry_s=0.1))

    def hosts() -> list[int]:
        workers.wait_until(lambda: status(device).delegate == "fake")
        return [int(each) for each in pids.read_text().split()]

    with device.running():
        (first,) = hosts()
        assert first != device.supervisor.pid
        root = device.state_dir / "slots"
        slots.switch(root, slots.slot(root, "digits", "B"))
        device.call(Swap("digits"))
        workers.wait_until(lambda: not _lives(first))
        second = hosts()[-1]
        device.kill()
        workers.wait_until(lambda: not _lives(second))
        third = hosts()[-1]
    workers.wait_until(lambda: not _lives(third))


def test_an_exclusive_accelerator_is_tried_in_the_worker_alone_and_follows_a_swap(
    device: Device,
) -> None:
    """No child opens it; each new model begins on the CPU; an orderly end blames nobody."""
    Sample("v2").put(device.state_dir, "B", serve=False)
    pids = device.state_dir / "pids"
    delegates.write(device.state_dir, delegates.entry({"pids": str(pids)}, exclusive=True))
    with device.running():
        workers.wait_until(lambda: status(device).delegate == "fake")
        root = device.state_dir / "slots"
        slots.switch(root, slots.slot(root, "digits", "B"))
        device.call(Swap("digits"))
        workers.wait_until(lambda: status(device).delegate == "fake")
        assert status(device).version == "v2"
        assert set(pids.read_text().split()) == {str(device.supervisor.pid)}
    assert losses.load(device.state_dir / SPOOL) == losses.Losses()


def test_a_configuration_that_is_wrong_is_told_and_the_cpu_serves(device: Device) -> None:
    """No typing error takes a model out of service."""
    (device.state_dir / "inference.toml").write_text('[[delegate]]\nkind = "magic"\n')
    with device.running():
        told = Asking(device).until(lambda told: bool(told.delegate_reason))
        assert told.delegate == "cpu"
        assert "inference.toml: it is not valid: Invalid value 'magic'" in told.delegate_reason
