"""From a policy to a sample: the order, the worker, the buffer, the control plane."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET

from agent.deployment import captures, slots
from agent.inference.control import Recapture
from firmware_bundles.wire.messages import Capture, Segment, SegmentKind
from firmware_bundles.wire.samples import Reason, Span, decode_samples
from support import spool, workers
from support.bundles import Sample, images
from support.deployments import V1, deployed
from support.workers import infer

INFER = "/v2/models/digits/infer"
POLICY = Capture(fields=("image",), share=1.0)


def test_a_worker_keeps_what_the_policy_names(tmp_path: Path) -> None:
    """The input as it was, with its prediction's number, scores and class; off without a policy."""
    Sample("v1").put(tmp_path, "A")
    slot = slots.slot(tmp_path / "slots", "digits", "A")
    digest = slots.manifest_digest(slot)
    sent = images(4)
    with workers.device(tmp_path) as device, device.running(segment_age_s=0.05):
        with device.client() as client:
            client.post(INFER, json=infer(sent[0]))
            captures.write(slot, digest, POLICY)
            device.call(Recapture("digits"))
            answers = [client.post(INFER, json=infer(image)).json() for image in sent[1:3]]
            captures.write(slot, digest, UNSET)
            device.call(Recapture("digits"))
            client.post(INFER, json=infer(sent[3]))
        workers.wait_until(lambda: _rows(tmp_path, SegmentKind.PREDICTIONS) == 4)
    kept = [decode_samples(each.body) for each in _segments(tmp_path, SegmentKind.SAMPLES)]
    ids = [answer["parameters"]["prediction_id"].split("-")[1] for answer in answers]
    assert [str(number) for each in kept for number in each.sequence] == ids
    assert np.array_equal(np.concatenate([each.values for each in kept])[0], sent[1].ravel())
    for each in kept:
        assert each.spans == (Span(0, 64),)
        assert set(each.reasons.tolist()) == {int(Reason.SHARE)}
        assert np.array_equal(each.scores.argmax(axis=1), each.classes)


def test_a_policy_that_does_not_fit_captures_nothing(tmp_path: Path) -> None:
    """A worker serves all the same where a policy names what its model does not have."""
    Sample("v1").put(tmp_path, "A")
    slot = slots.slot(tmp_path / "slots", "digits", "A")
    wrong = msgspec.structs.replace(POLICY, fields=("sound",))
    captures.write(slot, slots.manifest_digest(slot), wrong)
    with workers.device(tmp_path) as device, device.running(segment_age_s=0.05):
        with device.client() as client:
            assert client.post(INFER, json=infer(images(1)[0])).status_code == 200
        workers.wait_until(lambda: _rows(tmp_path, SegmentKind.PREDICTIONS) == 1)
    assert _segments(tmp_path, SegmentKind.SAMPLES) == []


def test_an_order_brings_its_policy_to_the_worker(tmp_path: Path) -> None:
    """With the switch; for the model that serves already, by asking the worker to read anew."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        slot = slots.serving(device.worker.root, "digits")
        assert slot is not None
        assert captures.read(slot, V1.digest) is None
        device.updater.offer(V1.order(2, capture=POLICY))
        await device.ended(2)
        assert captures.read(slot, V1.digest) == POLICY
        assert Recapture(family="digits") in device.worker.asked
        device.updater.offer(V1.order(3))
        await device.ended(3)
        assert captures.read(slot, V1.digest) is None

    asyncio.run(run())


def _segments(state_dir: Path, kind: SegmentKind) -> list[Segment]:
    store = spool.make(state_dir / "spool")
    try:
        return [each for each in spool.segments(store) if each.key.kind is kind]
    finally:
        store.close()


def _rows(state_dir: Path, kind: SegmentKind) -> int:
    return sum(each.rows for each in _segments(state_dir, kind))
