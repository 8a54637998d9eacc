"""Simulated devices: what they do is what their behaviour says, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import random
from typing import cast

import numpy as np
import pytest

from agent.deployment.downloads import Downloads
from agent.deployment.lifecycle import Record
from firmware_bundles.errors import ShoalError
from firmware_bundles.sketches import baseline, codec
from firmware_bundles.wire import codec as wire
from firmware_bundles.wire import topics
from firmware_bundles.wire.messages import Acknowledgement, Fault
from support.bundles import Sample
from support.deployments import V1, V2
from support.segments import window
from support.simulated.behaviour import Behaviour, Dealt, deal
from support.simulated.contents import Contents
from support.simulated.deployments import Deployments
from support.simulated.outbox import Outbox
from support.simulated.traffic import Traffic

_SECRET = b"s" * 32


def test_behaviours_are_dealt_out_by_their_shares() -> None:
    """Each share gets its number of devices, the others are well-behaved; a seed gives one deal."""
    slow = Behaviour(install_s=9.0)
    mix = [Dealt(share=0.2, behaviour=slow)]
    dealt = deal(50, mix, 1)
    assert dealt.count(slow) == 10
    assert dealt.count(Behaviour()) == 40
    assert dealt == deal(50, mix, 1) != deal(50, mix, 2)


def test_traffic_can_be_told_from_its_numbers() -> None:
    """The sketch of parts, merged, is that of the whole; drift moves features, errors answers."""
    facts = codec.parse_baseline(Sample().files["baseline.bin"])
    traffic = Traffic(3, Behaviour(drift_sd=1.0, drift_after_windows=2, wrong_share=0.25))
    whole = traffic.sketch(facts, np.arange(1, 301))
    parts = traffic.sketch(facts, np.arange(1, 101))
    parts.merge(traffic.sketch(facts, np.arange(101, 301)))
    assert codec.encode_sketch(parts) == codec.encode_sketch(whole)
    rows = traffic.rows(np.arange(1, 1001))
    wrong = (rows.scores.argmax(axis=1) != rows.labels).mean()
    assert wrong == pytest.approx(0.25, abs=0.05)
    later = traffic.rows(np.arange(1, 1001), window=2)
    assert (later.features.mean(axis=0) >= rows.features.mean(axis=0)).all()
    assert later.features.mean() > rows.features.mean()


def test_a_segment_leaves_the_outbox_only_on_an_answer_with_the_right_tag() -> None:
    """It is sent again on a new connection; a forged answer is counted, a refusal ends it too."""
    said: list[bytes] = []

    def send(_topic: str, payload: bytes) -> bool:
        said.append(payload)
        return True

    outbox = Outbox("press-1", _SECRET, send)
    segments = [window(number, b"sketch", 300) for number in (1, 2)]
    for each in segments:
        outbox.add(each)
    outbox.connection_changed()
    assert len(said) == 4
    topic = topics.down("press-1", topics.Down.ACKNOWLEDGEMENT)
    first = Acknowledgement(key=segments[0].key)
    outbox.acknowledged(wire.seal(b"another secret", topic, first))
    assert (outbox.waiting, outbox.forged) == (2, 1)
    outbox.acknowledged(wire.seal(_SECRET, topic, first))
    outbox.acknowledged(wire.seal(_SECRET, topic, first))
    refused = Acknowledgement(key=segments[1].key, fault=Fault(code="wire.malformed", message="no"))
    outbox.acknowledged(wire.seal(_SECRET, topic, refused))
    assert (outbox.waiting, outbox.delivered, outbox.refused) == (0, 1, 1)


class _Broker:
    """Brings chunks at once."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._chunks = V1.chunks | V2.chunks

    async def fetch(self, digests: list[str], _pace: object = None) -> None:
        for digest in digests:
            self._contents.save(digest, self._chunks[digest])

    def lacking(self, digests: list[str]) -> list[str]:
        return [digest for digest in digests if not self._contents.has(digest)]


async def _deployed(behaviour: Behaviour, *generations: int) -> list[Record]:
    """Give a device these orders one after the other; return all steps that it took."""
    steps: list[Record] = []
    is_proving = asyncio.Event()

    def note(record: Record) -> None:
        steps.append(record)
        if record.state == "probation":
            is_proving.set()

    contents = Contents({})
    broker = _Broker(contents)
    device = Deployments(behaviour, random.Random(1), contents, cast("Downloads", broker), note)
    for generation in generations:
        release = V1 if generation % 2 else V2
        device.offer(release.order(generation, probation_s=0.2))
        if generation != generations[-1]:
            await is_proving.wait()
    task = device.families["digits"].task
    assert task is not None
    await task
    return steps


def test_baselines_of_samples_have_a_stride_that_tests_may_rely_on() -> None:
    """Every row is counted, so that a window's truth is that of its numbers."""
    facts = codec.parse_baseline(Sample().files["baseline.bin"])
    assert facts.stride == 1
    assert facts.window_rows >= baseline.ROWS_PER_BIN_MIN


@pytest.mark.parametrize(
    ("behaviour", "end", "code"),
    [
        (Behaviour(install_s=0.0), "committed", None),
        (Behaviour(install_s=0.0, fails_install=1.0), "failed", "device.self_test_failed"),
        (Behaviour(install_s=0.0, fails_probation=1.0), "rolled_back", "device.probation_failed"),
    ],
)
def test_a_deployment_ends_as_the_behaviour_says(
    behaviour: Behaviour, end: str, code: str | None
) -> None:
    """By the agent's own table of states, with the agent's own codes."""
    last = asyncio.run(_deployed(behaviour, 1))[-1]
    assert last.state == end
    assert (last.fault and last.fault.code) == code


def test_a_newer_order_in_probation_goes_back_first() -> None:
    """The former deployment is rolled back, then the new one goes its way."""
    steps = asyncio.run(_deployed(Behaviour(install_s=0.0), 1, 2))
    ends = [(each.generation, each.state.value) for each in steps if each.state.value in
            {"rolled_back", "committed"}]  # fmt: skip
    assert ends == [(1, "rolled_back"), (2, "committed")]


def test_a_chunk_with_other_bytes_is_not_kept() -> None:
    """As a real device, it hashes what came."""
    contents = Contents({})
    with pytest.raises(ShoalError):
        contents.save("0" * 64, b"other bytes")
    assert not contents.has("0" * 64)
