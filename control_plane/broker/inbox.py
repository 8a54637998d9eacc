"""What devices said, in order, off the MQTT thread: taken in batches, told to who handles it.

A message that is refused is counted and logged with its code; it never stops the next one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from control_plane.broker.rounds import Said, rounds
from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Batch = Sequence[tuple[str, bytes]]
    Together = Callable[[Batch], Sequence[ShoalError | None]]

_LOG: Final = logging.getLogger(__name__)
_WAITING_MAX: Final = 20_000
_WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
BATCH_MAX: Final = 1_024
# The topics of devices come again and again.
_parsed: Final = lru_cache(maxsize=16_384)(topics.parse_up)


class Inbox:
    """A thread that handles messages one batch after another.

    `handlers` take one message each; those `together` take all of their kind in a batch, and say of
    each what was wrong with it; `ingest` takes all telemetry of a batch. `suspect` hears what was
    refused of whatever was said in a device's name.
    `refused` counts by error code; where a counter is given `ingest` adds to it, too. `dropped`
    counts what found no room: who sent it tries again.
    """

    def __init__(
        self,
        handlers: Mapping[Up, Callable[[str, bytes], object]],
        ingest: Callable[[Batch], None],
        suspect: Callable[[str, ShoalError], None] = lambda _device, _error: None,
        together: Mapping[Up, Together] = MappingProxyType({}),
        refused: Counter[str] | None = None,
    ) -> None:
        self._handlers = handlers
        self._together = together
        self._ingest = ingest
        self._suspect = suspect
        self._waiting: queue.Queue[tuple[str, bytes] | None] = queue.Queue(_WAITING_MAX)
        # What came less what was taken: each is written by one thread alone.
        self._bytes_in = 0
        self._bytes_out = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)
        self.refused: Counter[str] = Counter() if refused is None else refused
        self.dropped = 0

    def put(self, topic: str, payload: bytes) -> None:
        """Take a message, from one thread; never waits."""
        size = len(topic) + len(payload)
        if self._bytes_in - self._bytes_out + size > _WAITING_BYTES_MAX:
            self._drop()
            return
        try:
            self._waiting.put_nowait((topic, payload))
        except queue.Full:
            self._drop()
        else:
            self._bytes_in += size

    def start(self) -> None:
        """Begin to handle."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the present batch. What still waits is sent again by the devices."""
        self._stopping.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def handle(self, batch: Batch) -> None:
        """Handle messages, given as topic and payload, each device's in order; telemetry last."""
        telemetry: list[tuple[str, bytes]] = []
        others: list[Said] = []
        for topic, payload in batch:
            with _Refusals(self.refused, topic):
                device, kind = _parsed(topic)
                if kind is Up.TELEMETRY:
                    telemetry.append((device, payload))
                elif payload and (kind in self._handlers or kind in self._together):
                    others.append(Said(device, kind, payload))
        for found in rounds(others):
            for kind, said in found.items():
                if kind in self._together:
                    self._take_together(self._together[kind], said)
                else:
                    self._take_each(self._handlers[kind], said)
        if telemetry:
            with _Refusals(self.refused, f"{len(telemetry)} segments"):
                self._ingest(telemetry)

    def _take_each(self, handle: Callable[[str, bytes], object], said: Sequence[Said]) -> None:
        for each in said:
            try:
                handle(each.device, each.payload)
            except Exception as error:  # noqa: BLE001 counted and logged
                self._refuse(each, error)

    def _take_together(self, handle: Together, said: Sequence[Said]) -> None:
        """Let all be handled together; where that fails as a whole, each by itself."""
        try:
            errors = handle([(each.device, each.payload) for each in said])
        except Exception as error:  # noqa: BLE001 counted and logged with each that fails alone
            if len(said) == 1:
                self._refuse(said[0], error)
                return
            for each in said:
                self._take_together(handle, [each])
            return
        for each, refused in zip(said, errors, strict=True):
            if refused is not None:
                self._refuse(each, refused)

    def _refuse(self, said: Said, error: Exception) -> None:
        if isinstance(error, ShoalError):
            self._suspect(said.device, error)
        with _Refusals(self.refused, topics.up(said.device, said.kind)):
            raise error

    def _run(self) -> None:
        while not self._stopping.is_set():
            taken = [self._waiting.get()]
            while len(taken) < BATCH_MAX and not self._waiting.empty():
                taken.append(self._waiting.get_nowait())
            batch = [message for message in taken if message is not None]
            self.handle(batch)
            self._bytes_out += sum(len(topic) + len(payload) for topic, payload in batch)

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped.bit_count() == 1:
            _LOG.warning("no room for what devices say dropped=%d", self.dropped)


class _Refusals:
    """Counts and logs what a block refuses, and goes on."""

    def __init__(self, counts: Counter[str], what: str) -> None:
        self._counts = counts
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, ShoalError):
            self._counts[error.code] += 1
            _LOG.warning("refused code=%s from=%s reason=%s", error.code, self._what, error.message)
            return True
        if isinstance(error, Exception):
            self._counts[ShoalError.code] += 1
            _LOG.error("handling failed from=%s", self._what, exc_info=error)
            return True
        return False
