"""Sealed segments of many simulated devices, from a process of its own.

Started with the broker's port, devices and segments for each; sealed before it says `ready`. On
`go` it publishes them all, with as many under way as the devices' windows allow, and says how many
seconds it took until every one was acknowledged, and how many acknowledgements were good.
With `count N` it publishes N and does not wait for acknowledgements.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.columns import Predictions, encode_predictions
from firmware_bundles.wire.messages import Acknowledgement, Segment, SegmentKey, SegmentKind
from support.raw_mqtt import Line, Message, publish_packet

ROWS: Final = 64
SCORES: Final = 10
IN_FLIGHT_A_DEVICE: Final = 8
_SILENCE_S_MAX: Final = 60.0
_PACKETS_A_WRITE: Final = 64
_NUMBERS: Final = 65_535


def device_id(number: int) -> str:
    """Return the name of a simulated device."""
    return f"device-{number:05d}"


def secret(number: int) -> bytes:
    """Return its key."""
    return number.to_bytes(32, "big")


def segment(random: np.random.Generator, number: int) -> Segment:
    """Return the segment with this number, from 0, of an incarnation."""
    first = number * ROWS + 1
    rows = Predictions(
        sequence=np.arange(first, first + ROWS),
        time_ms=np.cumsum(random.integers(5, 20, ROWS)),
        classes=random.integers(0, SCORES, ROWS),
        latency_us=random.integers(120, 400, ROWS),
        scores=random.integers(0, 255, (ROWS, SCORES)).astype(np.uint8) // 64,
    )
    return Segment(
        key=SegmentKey(
            incarnation="00000000000000aa",
            kind=SegmentKind.PREDICTIONS,
            first=first,
            last=first + ROWS - 1,
        ),
        family="digits",
        model="a" * 64,
        rows=ROWS,
        started=1_800_000_000.0 + number,
        ended=1_800_000_001.0 + number,
        body=encode_predictions(rows),
    )


def payloads(devices: int, segments: int) -> Iterator[tuple[str, bytes]]:
    """Yield topic and payload, all devices by turns."""
    random = np.random.default_rng(1)
    for number in range(segments):
        sealed = segment(random, number)
        for device in range(devices):
            topic = topics.up(device_id(device), topics.Up.TELEMETRY)
            yield topic, codec.seal(secret(device), topic, sealed)


def good(answers: list[Message]) -> int:
    """Return how many different segments these acknowledge, with a right tag and no fault."""
    found = set()
    for topic, payload in answers:
        device = topic.split("/")[3]
        key = secret(int(device.removeprefix("device-")))
        said = codec.unseal(Acknowledgement, key, topic, payload)
        if said.fault is None:
            found.add((device, said.key.first))
    return len(found)


def _pour(line: Line, answers: Line | None, packets: list[bytes], in_flight: int) -> list[Message]:
    """Publish all, at most `in_flight` unanswered; return the acknowledgements of segments."""
    sent = taken = 0
    said: list[Message] = []
    lines = [line] if answers is None else [line, answers]
    heard = time.monotonic()
    while taken < len(packets) or (answers is not None and len(said) < len(packets)):
        room = in_flight - (sent - (taken if answers is None else len(said)))
        part = packets[sent : sent + min(room, _PACKETS_A_WRITE)]
        if part:
            line.send(b"".join(part))
            sent += len(part)
        for ready in select.select(lines, [], [], 0 if part else 1)[0]:
            heard = time.monotonic()
            if ready is line:
                taken += line.acknowledged()
            else:
                said += ready.received()
        if time.monotonic() - heard > _SILENCE_S_MAX:
            break
    return said


def main() -> None:
    """Do as the module says."""
    port, devices, segments = (int(each) for each in sys.argv[1:4])
    packets = [
        publish_packet(topic, payload, number % _NUMBERS + 1)
        for number, (topic, payload) in enumerate(payloads(devices, segments))
    ]
    line, answers = Line(port, "load"), Line(port, "answers")
    answers.subscribe("shoal/v1/d/+/down/ack")
    print("ready", sum(map(len, packets)) // len(packets), flush=True)
    for command in sys.stdin:
        is_answered = command.strip() == "go"
        began = time.monotonic()
        said = _pour(line, answers if is_answered else None, packets, devices * IN_FLIGHT_A_DEVICE)
        seconds = time.monotonic() - began
        print(seconds, good(said), flush=True)


if __name__ == "__main__":
    main()
