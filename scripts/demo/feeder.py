"""Sends real images to the local endpoints of devices and, later, what they truly showed.

A very small HTTP/1.1 client over unix sockets: the load must not cost more than what it loads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

_HEADER_END = b"\r\n\r\n"
_HEAD = (
    "POST {target} HTTP/1.1\r\nHost: shoal\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}"
)
_RECONNECT_S = 0.05
_DARKER = 0.4


@dataclass
class Tally:
    """What one device was asked and answered."""

    answered: list[str] = field(default_factory=list)
    unanswered: int = 0
    refused: int = 0
    labelled: int = 0
    by_version: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Images:
    """Requests made beforehand, also with darker images, and the digit that each image shows."""

    bodies: list[bytes]
    darker: list[bytes]
    labels: list[int]

    @classmethod
    def load(cls, path: Path) -> Images:
        """Read the feed rows of the samples."""
        with np.load(path, allow_pickle=False) as stored:
            images, labels = stored["image"].astype(np.float32), stored["label"]
        return cls(
            bodies=[_request(image) for image in images],
            darker=[_request(image * _DARKER) for image in images],
            labels=[int(label) for label in labels],
        )


def _request(image: np.ndarray[Any, Any]) -> bytes:
    data = [round(float(value), 6) for value in image.ravel()]
    tensor = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


class Connection:
    """One kept-alive connection to an endpoint."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, target: str, body: bytes) -> tuple[int, bytes]:
        """Send one request; returns status and body. Raises OSError or EOFError without answer."""
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._path))
        reader, writer = self._streams
        head = _HEAD.format(target=target, length=len(body))
        try:
            writer.write(head.encode() + _HEADER_END + body)
            header = (await reader.readuntil(_HEADER_END)).lower()
            length = int(header.split(b"content-length:")[1].split(b"\r\n")[0])
            return int(header[9:12]), await reader.readexactly(length)
        except (OSError, EOFError, IndexError):
            self.close()
            raise

    def close(self) -> None:
        """Forget the connection; the next request makes a new one."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Feeder:
    """A thread that feeds devices at `rate_hz` each, and labels some answers a little later."""

    def __init__(
        self,
        images: Images,
        *,
        rate_hz: float = 50.0,
        label_every: int = 4,
        label_after_s: float = 0.5,
    ) -> None:
        self._images = images
        self._period_s = 1.0 / rate_hz
        self._label_every = label_every
        self._label_after_s = label_after_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.tallies: dict[str, Tally] = {}
        self._dark: set[str] = set()

    def start(self, sockets: dict[str, Path]) -> None:
        """Begin to feed the devices, given by their sockets."""
        self.tallies = {device: Tally() for device in sockets}
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._feed(sockets)), name="feeder"
        )
        self._thread.start()

    def darken(self, device: str) -> None:
        """Let a device's images be darker from now on, as if its lamp were failing."""
        self._dark.add(device)

    def stop(self) -> None:
        """End after the requests under way."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    async def _feed(self, sockets: dict[str, Path]) -> None:
        await asyncio.gather(
            *(
                self._feed_one(number, name, path)
                for number, (name, path) in enumerate(sockets.items())
            )
        )

    async def _feed_one(self, number: int, device: str, path: Path) -> None:
        tally, connection, later = (
            self.tallies[device],
            Connection(path),
            deque[tuple[float, str, int]](),
        )
        loop = asyncio.get_running_loop()
        due, step = loop.time() + number * self._period_s / 8, number * 37
        while not self._stop.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due = max(due + self._period_s, loop.time() - 1.0)
            step = (step + 1) % len(self._images.bodies)
            try:
                images = self._images.darker if device in self._dark else self._images.bodies
                await self._predict(connection, tally, later, step, images[step], loop.time())
                await self._label(connection, tally, later, loop.time())
            except (OSError, EOFError):
                await asyncio.sleep(_RECONNECT_S)
        with contextlib.suppress(OSError, EOFError):
            await self._label(connection, tally, later, float("inf"))
        connection.close()

    async def _predict(
        self,
        connection: Connection,
        tally: Tally,
        later: deque[tuple[float, str, int]],
        step: int,
        request: bytes,
        now: float,
    ) -> None:
        try:
            status, body = await connection.post("/v2/models/digits/infer", request)
        except (FileNotFoundError, ConnectionRefusedError):
            raise
        except (OSError, EOFError):
            tally.unanswered += 1
            raise
        if status != HTTPStatus.OK:
            tally.refused += 1
            return
        answer = json.loads(body)
        identity = str(answer["parameters"]["prediction_id"])
        tally.answered.append(identity)
        version = str(answer["model_version"])
        tally.by_version[version] = tally.by_version.get(version, 0) + 1
        if len(tally.answered) % self._label_every == 0:
            later.append((now + self._label_after_s, identity, self._images.labels[step]))

    async def _label(
        self, connection: Connection, tally: Tally, later: deque[tuple[float, str, int]], now: float
    ) -> None:
        while later and later[0][0] <= now:
            _, identity, label = later[0]
            body = json.dumps({"id": identity, "label": str(label)}).encode()
            status, _ = await connection.post("/v2/models/digits/feedback", body)
            later.popleft()
            if status == HTTPStatus.OK:
                tally.labelled += 1
            else:
                tally.refused += 1
