"""A segment leaves the device only on an acknowledgement that is the control plane's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from agent.store import damage
from agent.store.buffer import Sealed
from agent.store.journal import Position
from agent.telemetry.allowance import Allowance, UploadLimits
from agent.telemetry.forwarder import Forwarder
from firmware_bundles.errors import ShoalError
from firmware_bundles.limits import TELEMETRY_BYTES_MAX
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import (
    Acknowledgement,
    Fault,
    Segment,
    SegmentKey,
    SegmentKind,
)
from firmware_bundles.wire.topics import Down, Up
from support import spool

KEY = b"k" * 32
DEVICE = "kiosk-1"
INCARNATION = "0123456789abcdef"
TOPIC = topics.down(DEVICE, Down.ACKNOWLEDGEMENT)


class Line:
    """Stands where the broker would: takes what is sent, and forgets it while it is down."""

    def __init__(self, folder: Path, count: int = 3, *, retry_s: float = 30.0) -> None:
        self.store = spool.make(folder)
        sealed = [Sealed(each.key, 1, codec.encode(each)) for each in map(_segment, range(count))]
        self.store.seal(INCARNATION, Position(), sealed, [])
        self.sent: list[Segment] = []
        self.detected: list[ShoalError] = []
        self.accepts = True
        self.forwarder = Forwarder(
            folder / "buffer.db",
            DEVICE,
            KEY,
            self._send,
            in_flight_max=2,
            retry_s=retry_s,
            detect=self.detected.append,
        )

    def _send(self, topic: str, payload: bytes) -> bool:
        assert topic == topics.up(DEVICE, Up.TELEMETRY)
        if self.accepts:
            self.sent.append(codec.unseal(Segment, KEY, topic, payload))
        return self.accepts

    def answer(self, segment: Segment, *, key: bytes = KEY, fault: Fault | None = None) -> None:
        """Acknowledge as the control plane does."""
        answer = Acknowledgement(key=segment.key, fault=fault)
        self.forwarder.acknowledged(codec.seal(key, TOPIC, answer))


def test_segments_go_in_order_through_a_window_until_acknowledged(tmp_path: Path) -> None:
    """At most `in_flight_max` are under way; an acknowledgement frees a place and deletes."""

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 2)
        line.answer(line.sent[0])
        await _until(lambda: len(line.sent) == 3)
        assert [segment.key.first for segment in line.sent] == [1, 2, 3]
        for segment in line.sent[1:]:
            line.answer(segment)
        await _until(lambda: line.forwarder.delivered == 3)
        assert line.store.facts().segments == 0

    _play(Line(tmp_path), script)


def test_what_is_not_acknowledged_is_sent_again(tmp_path: Path) -> None:
    """After `retry_s`, and at once after a new connection, the same segments go again."""

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) >= 4)
        first = {segment.key.first for segment in line.sent}
        assert first == {1, 2}
        before = len(line.sent)
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) >= before + 2)
        assert line.store.facts().segments == 3

    _play(Line(tmp_path, retry_s=0.05), script)


def test_a_forged_acknowledgement_deletes_nothing(tmp_path: Path) -> None:
    """A wrong tag, or garbage, is counted, told and not believed."""

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 2)
        line.answer(line.sent[0], key=b"x" * 32)
        line.forwarder.acknowledged(b"")
        await _until(lambda: line.forwarder.forged == 2 == len(line.detected))
        assert line.detected[0].code == "trust.authentication_failed"
        assert line.store.facts().segments == 3
        assert line.forwarder.delivered == 0

    _play(Line(tmp_path), script)


def test_a_refused_segment_is_parked_and_the_rest_goes_on(tmp_path: Path) -> None:
    """What will never be accepted is kept and counted, but not sent again."""

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 2)
        line.answer(line.sent[0], fault=Fault(code="wire.malformed", message="no"))
        await _until(lambda: len(line.sent) == 3)
        assert line.forwarder.parked == 1
        assert line.store.facts().segments == 3
        assert [stored.number for stored in line.store.waiting(10)] == [2, 3]

    _play(Line(tmp_path), script)


def test_single_answers_wait_for_their_budget_and_windows_do_not(tmp_path: Path) -> None:
    """With the day's bytes used up windows and labels go on; what waits goes when there is more."""
    line, limits = Line(tmp_path), [UploadLimits(bytes_per_day_max=0)]
    kinds = (SegmentKind.LABELS, SegmentKind.WINDOW)
    for kind in kinds:
        key = SegmentKey(incarnation=INCARNATION, kind=kind, first=1, last=1)
        other = msgspec.structs.replace(_segment(0), key=key)
        line.store.seal(INCARNATION, Position(), [Sealed(key, 1, codec.encode(other))], [])
    line.forwarder = Forwarder(
        tmp_path / "buffer.db",
        DEVICE,
        KEY,
        line._send,
        allowance=Allowance(lambda: limits[0], lambda: 0),
    )

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 2)
        await asyncio.sleep(0.2)
        assert [each.key.kind for each in line.sent] == [SegmentKind.WINDOW, SegmentKind.LABELS]
        limits[0] = UploadLimits()
        await _until(lambda: len(line.sent) == 5)

    _play(line, script)


@given(st.lists(st.tuples(st.integers(1, 60_000), st.floats(0, 30)), max_size=60))
def test_the_rate_holds_over_any_time(sent: list[tuple[int, float]]) -> None:
    """Whatever is wanted when, no more leaves than the rate allows beyond the bucket."""
    rate = 1_000.0
    allowance = Allowance(lambda: UploadLimits(bytes_per_s_max=rate), lambda: 0)
    now, total = 100.0, 0
    for size, pause in sent:
        now += pause
        if allowance.permits(size, now):
            allowance.sent(size, now)
            total += size
    assert total <= 2 * TELEMETRY_BYTES_MAX + rate * (now - 100.0) + 1


def test_nothing_is_sent_while_the_connection_is_down(tmp_path: Path) -> None:
    """Without a connection segments wait; a line that takes nothing loses none."""

    async def script(line: Line) -> None:
        await asyncio.sleep(0.1)
        line.accepts = False
        line.forwarder.connection_changed(is_up=True)
        await asyncio.sleep(0.1)
        assert line.sent == []
        line.accepts = True
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 2)

    _play(Line(tmp_path), script)


def test_it_waits_for_a_buffer_to_appear(tmp_path: Path) -> None:
    """The core may start before the worker ever made the buffer."""

    async def script() -> None:
        stop = asyncio.Event()
        sent: list[bytes] = []

        def send(_topic: str, payload: bytes) -> bool:
            sent.append(payload)
            return True

        forwarder = Forwarder(tmp_path / "buffer.db", DEVICE, KEY, send)
        running = asyncio.create_task(forwarder.run(stop))
        forwarder.connection_changed(is_up=True)
        await asyncio.sleep(0.05)
        store = spool.make(tmp_path)
        segment = _segment(0)
        store.seal(INCARNATION, Position(), [Sealed(segment.key, 1, codec.encode(segment))], [])
        await _until(lambda: len(sent) == 1)
        stop.set()
        await running
        store.close()

    asyncio.run(script())


def _play(line: Line, script: Callable[[Line], Coroutine[None, None, None]]) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(line.forwarder.run(stop))
        try:
            await asyncio.wait_for(script(line), 20)
        finally:
            stop.set()
            await running

    try:
        asyncio.run(run())
    finally:
        line.store.close()


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what is waited for happens in another thread
        await asyncio.sleep(0.01)


def _segment(number: int) -> Segment:
    key = SegmentKey(
        incarnation=INCARNATION, kind=SegmentKind.PREDICTIONS, first=number + 1, last=number + 1
    )
    return Segment(
        key=key, family="digits", model="d" * 64, rows=1, started=1.0, ended=2.0, body=b"body"
    )


def test_the_core_side_is_light() -> None:
    """What the core imports of this loads neither numpy nor sqlite-utils nor cryptography."""
    script = (
        "import sys, agent.telemetry.forwarder, agent.inference.control, agent.inference.supervisor"
        "\nheavy = {'numpy', 'sqlite_utils', 'cryptography', 'tuf', 'httpx', 'uvicorn', 'typer'}"
        "\nassert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_buffer_in_the_place_of_a_damaged_one_is_taken_up(tmp_path: Path) -> None:
    """The worker puts a damaged one aside: what comes into the new one is delivered, too."""

    async def script(line: Line) -> None:
        line.forwarder.connection_changed(is_up=True)
        await _until(lambda: len(line.sent) == 1)
        line.store.close()
        damage.set_aside(line.store.path, "damaged")
        line.store = spool.make(tmp_path)
        other = _segment(5)
        line.store.seal(INCARNATION, Position(), [Sealed(other.key, 1, codec.encode(other))], [])
        await _until(lambda: other.key in [each.key for each in line.sent])

    _play(Line(tmp_path, 1), script)
