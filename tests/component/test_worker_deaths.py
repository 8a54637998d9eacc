"""A worker that is taken down by an input or a model: what is refused, who is blamed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from agent.deployment import slots
from agent.deployment.seals import Mark
from agent.inference import breadcrumbs, losses
from agent.inference.control import FamilyStatus, Swap
from agent.inference.deaths import Register
from firmware_bundles.errors import ModelUnusable, SelfTestFailed, WorkerUnavailable
from support import poisonous, workers
from support.bundles import Sample, images
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device with v1 serving, whose interpreter can be made to crash."""
    Sample("v1").put(tmp_path, "A")
    with workers.device(tmp_path) as made:
        made.python = poisonous.interpreter(tmp_path)
        yield made


def _family(device: Device) -> FamilyStatus:
    return device.status().families["digits"]


def _is_lost(device: Device, fault: float, number: int = 0) -> bool:
    """Whether an input takes the worker down before it answers."""
    with device.client() as client:
        try:
            client.post(INFER, json=infer(poisonous.image(fault, number)))
        except httpx.TransportError:
            return True
    return False


def test_an_input_that_killed_twice_is_refused_and_the_model_serves_on(device: Device) -> None:
    """422 with a code and a sentence; the model is not blamed, other inputs are answered."""
    with device.running():
        assert _is_lost(device, poisonous.CRASH)
        assert _is_lost(device, poisonous.CRASH)
        with device.client() as client:
            answer = client.post(INFER, json=infer(poisonous.image(poisonous.CRASH)))
            assert answer.status_code == 422
            assert "took the inference worker down twice" in answer.json()["error"]
            assert "device.input_refused" in answer.json()["error"]
            assert client.post(INFER, json=infer(images(1)[0])).status_code == 200
        facts = _family(device)
        assert (facts.killers, facts.repeated_deaths, facts.refusals) == (1, 1, 1)
        assert facts.signal == "Segmentation fault"
        assert facts.errors == 0
        assert device.supervisor.deaths == 2


def test_a_death_with_an_accelerator_in_use_is_the_accelerators_once(device: Device) -> None:
    """The next worker is on the CPU: there the same input is found out."""
    spool = device.state_dir / "spool"
    with device.running():
        device.status()
        losses.store(spool, losses.used(losses.Losses(), "digits/npu", breadcrumbs.boot_id()))
        assert _is_lost(device, poisonous.CRASH)
        assert _family(device).killers == 0
        note = losses.load(spool)
        assert (note.in_use, note.lost["digits/npu"].reason) == (frozenset(), losses.DIED)
        assert _is_lost(device, poisonous.CRASH)
        assert _family(device).killers == 1
        assert _is_lost(device, poisonous.CRASH)
        assert not _is_lost(device, poisonous.CRASH)
        assert losses.load(spool).lost["digits/npu"].count == 1


def test_another_model_is_given_an_input_that_killed_this_one(device: Device) -> None:
    """A refusal is of one model: the next one may be mended."""
    Sample("v2").put(device.state_dir, "B", serve=False)
    with device.running():
        for _ in range(2):
            assert _is_lost(device, poisonous.CRASH)
        slots.switch(
            device.state_dir / "slots", slots.slot(device.state_dir / "slots", "digits", "B")
        )
        device.call(Swap("digits"))
        assert _is_lost(device, poisonous.CRASH)


def test_deaths_at_different_inputs_are_counted_against_the_model(device: Device) -> None:
    """What the core rolls back for."""
    with device.running():
        for number in range(3):
            assert _is_lost(device, poisonous.CRASH, number)
        facts = _family(device)
        assert (facts.killers, facts.repeated_deaths) == (3, 0)


def test_requests_that_wait_are_answered_by_the_next_worker(device: Device) -> None:
    """The sockets outlive the worker: connections in the backlog are answered, within seconds."""
    with device.running():
        assert _is_lost(device, poisonous.CRASH)
        began = time.monotonic()
        with device.client() as client:
            assert client.post(INFER, json=infer(images(1)[0])).status_code == 200
        assert time.monotonic() - began < 10


def test_a_hang_in_the_interpreter_is_a_death_at_that_input(device: Device) -> None:
    """The loop cannot beat, or the inference takes too long: killed, and twice is refused."""
    with device.running(watchdog_s=1):
        for _ in range(2):
            assert _is_lost(device, poisonous.HANG)
        with device.client() as client:
            answer = client.post(INFER, json=infer(poisonous.image(poisonous.HANG)))
        assert answer.status_code == 422


def test_a_swap_that_takes_the_worker_down_ends_with_the_previous_model(device: Device) -> None:
    """At the next start the former model serves; the second death ends the attempts."""
    Sample("v2").put(device.state_dir, "B", serve=False)
    slot = slots.slot(device.state_dir / "slots", "digits", "B")
    slots.mark(slot, Mark.UNTRIED)
    (slot.directory / "crash-at-load").touch()
    with device.running():
        assert _family(device).version == "v1"
        slots.switch(device.state_dir / "slots", slot)
        for _ in range(2):
            with pytest.raises(WorkerUnavailable):
                device.call(Swap("digits"))
            with device.client() as client:
                told = client.post(INFER, json=infer(images(1)[0])).json()
            assert told["model_version"] == "v1"
        with pytest.raises(ModelUnusable, match="died again and again"):
            device.call(Swap("digits"))
        assert device.supervisor.deaths == 2


def test_a_swap_that_hangs_fails_and_the_old_model_goes_on(device: Device) -> None:
    """In time; it is not tried again, another swap is possible, and the end is orderly."""
    Sample("v2").put(device.state_dir, "B", serve=False)
    root = device.state_dir / "slots"
    hanging = slots.slot(root, "digits", "B")
    (hanging.directory / "hang-at-load").touch()
    with device.running():
        assert _family(device).version == "v1"
        slots.switch(root, hanging)
        with pytest.raises(SelfTestFailed, match="digits/B could not be taken over within 1 sec"):
            device.call(Swap("digits", deadline_s=1))
        with pytest.raises(ModelUnusable, match="or hung"):
            device.call(Swap("digits"))
        slots.switch(root, slots.slot(root, "digits", "A"))
        device.call(Swap("digits"))
        with device.client() as client:
            told = client.post(INFER, json=infer(images(1)[0])).json()
        assert told["model_version"] == "v1"
    with device.running():
        assert _family(device).version == "v1"
    assert Register(device.state_dir / "spool").deaths == ()


def test_an_orderly_end_blames_nobody(device: Device) -> None:
    """Nor does a file of an earlier boot."""
    with device.running():
        assert _family(device).ready
    crumbs = device.state_dir / "spool" / "breadcrumbs"
    data = bytearray(crumbs.read_bytes())
    data[64] = 1
    crumbs.write_bytes(data.replace(data[20:28], b"00000000", 1))
    with device.running():
        assert _family(device).killers == 0
