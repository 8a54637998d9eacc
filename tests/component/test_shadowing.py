"""A model that sees mirrored inputs: what is compared and recorded, and whom it never holds up."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.deployment import slots
from agent.inference import ring
from agent.inference.control import Shadow, ShadowStatus, Swap
from agent.store.buffer import Buffer
from firmware_bundles.errors import SelfTestFailed
from firmware_bundles.wire.columns import Predictions, decode_predictions
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import float_models, spool, workers
from support.bundles import SAMPLES, Sample, images
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device that serves v1 and has another model staged."""
    Sample("v1").put(tmp_path, "A")
    Sample("bad").put(tmp_path, "B", serve=False)
    with workers.device(tmp_path) as made:
        yield made


def _shadow(device: Device) -> ShadowStatus:
    facts = device.status().families["digits"].shadow
    assert facts is not None
    return facts


def _ask(device: Device, count: int) -> None:
    with device.client() as client:
        for image in images(count):
            assert client.post(INFER, json=infer(image)).status_code == 200


@contextmanager
def _asking(device: Device) -> Iterator[None]:
    ending = threading.Event()

    def ask() -> None:
        while not ending.is_set():
            _ask(device, 20)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    ending.set()
    thread.join()


def _sealed(state_dir: Path, kind: SegmentKind) -> list[tuple[Segment, Predictions]]:
    store = Buffer(state_dir / "spool" / "buffer.db")
    found = [each for each in spool.segments(store) if each.key.kind is kind]
    store.close()
    return [(each, decode_predictions(each.body)) for each in found]


def test_every_mirrored_input_is_answered_and_recorded_beside_the_live_answer(
    device: Device,
) -> None:
    """The shadow's rows carry the live predictions' numbers, so that both can be compared."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        _ask(device, 120)
        workers.wait_until(lambda: _shadow(device).rows == 120)
        facts = _shadow(device)
        device.call(Shadow("digits", "B", 0.0))
        assert device.status().families["digits"].shadow is None
    (live,) = _sealed(device.state_dir, SegmentKind.PREDICTIONS)
    (mirrored,) = _sealed(device.state_dir, SegmentKind.SHADOW)
    assert mirrored[0].model == facts.digest != live[0].model
    assert np.array_equal(mirrored[1].sequence, live[1].sequence)
    agreed = int(np.count_nonzero(mirrored[1].classes == live[1].classes))
    assert agreed == facts.agreed < 120
    assert facts.score_difference_sum > 0
    assert (facts.dropped, facts.errors) == (0, 0)


def test_a_shadow_s_rows_are_of_the_time_when_they_were_asked(device: Device) -> None:
    """However late they are recorded, a label of the same input is not older than they are."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        _ask(device, 20)
        asked = time.time()
        workers.wait_until(lambda: _shadow(device).rows == 20)
    ((segment, _),) = _sealed(device.state_dir, SegmentKind.SHADOW)
    assert segment.ended < asked


def test_a_shadow_that_does_not_follow_is_not_waited_for(device: Device) -> None:
    """What finds no place is dropped and counted; every request is answered."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        child = _child(device)
        os.kill(child, signal.SIGSTOP)
        _ask(device, ring.PLACES_MAX + 144)
        facts = _shadow(device)
        assert facts.dropped == 144
        assert facts.rows == 0
        os.kill(child, signal.SIGCONT)
        workers.wait_until(lambda: _shadow(device).rows == ring.PLACES_MAX)


@pytest.mark.parametrize("end", ["by_order", "with_the_worker"])
def test_a_shadow_that_ends_gives_its_last_answers(device: Device, end: str) -> None:
    """What was mirrored just before has its pair, whoever ends the shadow in order."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        _ask(device, 60)
        if end == "by_order":
            device.call(Shadow("digits", "B", 0.0))
    ((segment, _),) = _sealed(device.state_dir, SegmentKind.SHADOW)
    assert segment.rows == 60


def test_what_a_shadow_does_not_answer_before_its_end_is_dropped(
    device: Device, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is counted, and nobody waits long for one that hangs."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        os.kill(_child(device), signal.SIGSTOP)
        _ask(device, 30)
        device.call(Shadow("digits", "B", 0.0))
    assert "rows=0 agreed=0 dropped=30" in capfd.readouterr().err


def test_a_model_that_stores_its_inputs_otherwise_sees_the_same_values(device: Device) -> None:
    """A float model beside the quantized one that was made of it answers nearly alike."""
    model = (SAMPLES / "v1" / "model.tflite").read_bytes()
    float_models.bundle(float_models.dequantized(model)).put(device.state_dir, "B", serve=False)
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        _ask(device, 50)
        workers.wait_until(lambda: _shadow(device).rows == 50)
        facts = _shadow(device)
    assert facts.agreed >= 49
    assert facts.score_difference_sum / 50 < 0.05


def test_a_shadow_that_dies_is_told_and_the_live_model_serves_on(device: Device) -> None:
    """The reason names the signal."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        os.kill(_child(device), signal.SIGSEGV)
        workers.wait_until(lambda: bool(_shadow(device).reason))
        assert "SIGSEGV" in _shadow(device).reason
        _ask(device, 5)
        assert device.supervisor.deaths == 0


def test_a_shadow_has_what_processor_time_is_left(device: Device) -> None:
    """It is scheduled when nobody else wants to run, and ends with its worker."""
    with device.running():
        device.call(Shadow("digits", "B", 0.5))
        child = _child(device)
        workers.wait_until(lambda: os.sched_getscheduler(child) == os.SCHED_IDLE)
        assert os.getpriority(os.PRIO_PROCESS, child) == 19
        device.kill()
        workers.wait_until(lambda: not Path(f"/proc/{child}").exists())


def test_only_models_that_can_be_compared_are_mirrored(device: Device) -> None:
    """Other classes are refused with the reason; so is a damaged model."""
    other = Sample("v2")
    other.files["labels.txt"] = b"\n".join(b"class-%d" % each for each in range(10)) + b"\n"
    del other.files["baseline.bin"]
    other.put(device.state_dir, "B", serve=False)
    with device.running(), pytest.raises(SelfTestFailed, match="other classes"):
        device.call(Shadow("digits", "B", 1.0))


def test_a_swap_ends_what_was_mirrored(device: Device) -> None:
    """The pairs would be another model's."""
    root = device.state_dir / "slots"
    with device.running(), _asking(device):
        device.call(Shadow("digits", "B", 1.0))
        workers.wait_until(lambda: _shadow(device).rows > 0)
        slots.switch(root, slots.slot(root, "digits", "B"))
        device.call(Swap("digits"))
        assert device.status().families["digits"].shadow is None
        device.call(Shadow("digits", "A", 0.5))
        workers.wait_until(lambda: _shadow(device).rows > 0)


def _child(device: Device) -> int:
    assert device.supervisor.pid is not None
    tasks = Path(f"/proc/{device.supervisor.pid}/task").iterdir()
    (child,) = (int(e) for task in tasks for e in (task / "children").read_text().split())
    return child
