"""A model that sees mirrored inputs: what is compared and recorded, and whom it never holds up."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from agent.deployment import slots
from agent.inference.control import Shadow, ShadowStatus, Swap
from agent.store.buffer import Buffer
from firmware_bundles.errors import SelfTestFailed
from firmware_bundles.wire.columns import Predictions, decode_predictions
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import spool, workers
from support.bundles import Sample, images
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


def test_a_shadow_that_does_not_follow_is_not_waited_for(device: Device) -> None:
    """What finds no place is dropped and counted; every request is answered."""
    with device.running():
        device.call(Shadow("digits", "B", 1.0))
        child = _child(device)
        os.kill(child, signal.SIGSTOP)
        _ask(device, 400)
        facts = _shadow(device)
        assert facts.rows + facts.dropped + 256 >= 400
        assert facts.dropped > 0
        os.kill(child, signal.SIGCONT)
        workers.wait_until(lambda: _shadow(device).rows >= 256)


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
