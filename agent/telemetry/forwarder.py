"""Carries sealed segments from the buffer to the control plane, each until it is acknowledged.

Light: the core imports this. It does not look into segments; a segment leaves the buffer only on an
acknowledgement that carries the right tag, and is parked when that says it never will be accepted.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent import log
from agent.store import buffer
from agent.store.buffer import Buffer, Stored
from agent.telemetry.allowance import Allowance, UploadLimits
from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Acknowledgement, Segment, SegmentKey, SegmentKind
from firmware_bundles.wire.topics import Down, Up

_POLL_S: Final = 0.5
# A change that the files do not show is found this late.
_LOOK_S_MAX: Final = 10.0
_ACKNOWLEDGEMENTS_MAX: Final = 1024
_SINGLE_ANSWERS: Final = frozenset(
    {SegmentKind.PREDICTIONS, SegmentKind.SHADOW, SegmentKind.SAMPLES}
)


class Forwarder:
    """Sends with `send(topic, payload) -> accepted`, at most `in_flight_max` at a time.

    What is not acknowledged within `retry_s` is sent again. `acknowledged` and
    `connection_changed` may be called from any thread. Counted: `sent`, `delivered`, `parked`, and
    `forged`, acknowledgements that were not understood or carried a wrong tag; `detect` hears of
    these, in the loop's thread. Single answers and samples leave as far as the `allowance` permits.
    """

    def __init__(
        self,
        buffer_path: Path,
        device: str,
        key: bytes,
        send: Callable[[str, bytes], bool],
        in_flight_max: int = 8,
        retry_s: float = 10.0,
        detect: Callable[[ShoalError], None] = lambda _error: None,
        allowance: Allowance | None = None,
    ) -> None:
        self._allowance = allowance or Allowance(UploadLimits, lambda: 0)
        self.sent = self.delivered = self.parked = self.forged = 0
        self._path = buffer_path
        self._key = key
        self._topic = topics.up(device, Up.TELEMETRY)
        self._answer_topic = topics.down(device, Down.ACKNOWLEDGEMENT)
        self._send = send
        self._in_flight_max = in_flight_max
        self._retry_s = retry_s
        self._detect = detect
        self._is_up = False
        # Insertion order is the order of sending: segment key -> when it was sent.
        self._in_flight: dict[SegmentKey, float] = {}
        self._answers: deque[bytes] = deque(maxlen=_ACKNOWLEDGEMENTS_MAX)
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._buffer: Buffer | None = None
        self._file: int | None = None
        self._seen: list[tuple[int, int, int]] = []
        self._looked = float("-inf")

    def acknowledged(self, payload: bytes) -> None:
        """Take an acknowledgement as it arrived; it is checked before it is believed."""
        self._answers.append(payload)
        self._rouse()

    def connection_changed(self, is_up: bool) -> None:  # noqa: FBT001 - the one fact it tells
        """Stop sending, or send all that is not acknowledged anew."""
        self._is_up = is_up
        self._in_flight = {}
        self._rouse()

    async def run(self, stop: asyncio.Event) -> None:
        """Forward until `stop`. Waits as long as there is no buffer."""
        self._loop = asyncio.get_running_loop()
        ending = asyncio.ensure_future(stop.wait())
        ending.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                is_asked = self._wake.is_set()
                self._wake.clear()
                # The worker may hold the database for a moment: never wait in the loop's thread.
                try:
                    if self._is_changed() or self._in_flight or is_asked:
                        await asyncio.to_thread(self._round)
                except (buffer.DatabaseError, OSError) as error:
                    log.event("buffer-failed", reason=str(error))
                    self._looked = float("-inf")
                    self._close()  # the worker may put another one in its place
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_S):
                        await self._wake.wait()
        finally:
            ending.cancel()
            self._close()

    def _rouse(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    def _round(self) -> None:
        store = self._open()
        if store is None:
            return
        while self._answers:
            self._settle(store, self._answers[0])
            self._answers.popleft()
        if self._is_up:
            self._send_waiting(store)

    def _is_changed(self) -> bool:
        """Return whether the buffer may hold something new: to look at two files is cheap."""
        seen = [_look(self._path.with_name(self._path.name + side)) for side in ("", "-wal")]
        now = time.monotonic()
        is_changed = seen != self._seen or now - self._looked >= _LOOK_S_MAX
        if is_changed:
            self._seen, self._looked = seen, now
        return is_changed

    def _open(self) -> Buffer | None:
        if self._buffer is not None and self._file != _file(self._path):
            self._close()
        if self._buffer is None and buffer.is_ready(self._path, buffer.FORWARDED_VERSION):
            self._file = _file(self._path)
            self._buffer = Buffer(self._path)
        return self._buffer

    def _close(self) -> None:
        if self._buffer is not None:
            self._buffer.close()
        self._buffer = None

    def _settle(self, store: Buffer, payload: bytes) -> None:
        try:
            answer = codec.unseal(Acknowledgement, self._key, self._answer_topic, payload)
        except ShoalError as error:
            self.forged += 1
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._detect, error)
            return
        if answer.fault is None:
            store.acknowledge(answer.key)
            self.delivered += 1
        else:
            store.park(answer.key, f"{answer.fault.code}: {answer.fault.message}")
            self.parked += 1
        self._in_flight.pop(answer.key, None)

    def _send_waiting(self, store: Buffer) -> None:
        in_flight = self._in_flight  # replaced when the connection changes
        now = time.monotonic()
        for stored in store.waiting(
            self._in_flight_max, with_samples=self._allowance.may_send_samples()
        ):
            segment = _parse(store, stored)
            if segment is None:
                continue
            sent = in_flight.get(segment.key)
            if sent is not None and now - sent < self._retry_s:
                continue
            payload = codec.seal(self._key, self._topic, segment)
            is_single = segment.key.kind in _SINGLE_ANSWERS
            if is_single and not self._allowance.permits(len(payload), now):
                self._looked = float("-inf")  # the next round tries again
                return
            if not self._send(self._topic, payload):
                self._looked = float("-inf")
                return
            self._allowance.sent(len(payload), now)
            in_flight[segment.key] = now
            self.sent += 1


def _file(path: Path) -> int | None:
    """Return which file is there: the worker replaces a damaged buffer."""
    with suppress(FileNotFoundError):
        return path.stat().st_ino
    return None


def _look(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return (0, 0, 0)


def _parse(store: Buffer, stored: Stored) -> Segment | None:
    try:
        return codec.decode(Segment, stored.body)
    except ShoalError as error:  # damaged on this disk: keep it for a person, go on with the rest
        store.park_number(stored.number, f"{error.code}: {error.message}")
        return None
