"""Many devices in one process that fetch the same chunks, for a benchmark: a program of its own.

    python -m support.fanout_devices agent|bare PORT COUNT NAME FOLDER < DIGESTS

`agent` is the agent's own connection, download and disk; `bare` is a client with the same window
that keeps nothing. Writes "ready" when all are connected, begins when it reads a line, and ends
with the number of devices that have every chunk, verified.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
import threading
from collections import deque
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from agent.clock import Clock
from agent.config import Config
from agent.connection import Connection, Message
from agent.deployment.chunk_store import ChunkStore
from agent.deployment.downloads import Downloads
from agent.identity import Broker, Identity
from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT
from firmware_bundles.manifest import FileEntry
from firmware_bundles.wire import topics

_CONNECT_S_MAX = 60.0


class AgentDevice:
    """The agent's own code, from the socket to the disk."""

    def __init__(self, name: str, port: int, folder: Path) -> None:
        self._folder = folder
        identity = Identity(folder, name, "", Broker("127.0.0.1", port, False), b"", b"")
        config = Config(state_dir=folder, run_dir=folder)
        self._up = asyncio.Event()
        self._connection = Connection(
            identity,
            config,
            clock=Clock(),
            on_message=self._received,
            on_change=self._changed,
        )
        self._store = ChunkStore(folder / "chunks")
        self._downloads = Downloads(
            self._store,
            self._connection,
            device=name,
            window=CHUNK_WINDOW_DEFAULT,
            stall_s=30.0,
            detect=lambda error: print(error, file=sys.stderr),
        )
        self._arriving: set[asyncio.Task[None]] = set()

    def _changed(self, is_up: bool) -> None:  # noqa: FBT001
        self._downloads.connection_changed(is_up=is_up)
        if is_up:
            self._up.set()

    def _received(self, message: Message) -> None:
        if digest := topics.parse_chunk(message.topic):
            arriving = asyncio.create_task(self._downloads.received(digest, message.payload))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)

    async def connect(self) -> None:
        """Return when the broker accepted it."""
        self._connection.start()
        async with asyncio.timeout(_CONNECT_S_MAX):
            await self._up.wait()

    async def fetch(self, entry: FileEntry) -> bool:
        """Fetch the file; return whether it is whole on the disk."""
        self._store.expect([entry])
        await self._downloads.fetch(entry.chunks)
        self._store.take(entry, self._folder / "model")  # verifies the whole
        return True

    async def close(self) -> None:
        """Leave, and take what was fetched off the disk."""
        await self._connection.stop()
        await asyncio.to_thread(shutil.rmtree, self._folder)


class BareDevice:
    """The least that can fetch chunks: subscribe, compare the digest, unsubscribe."""

    def __init__(self, name: str, port: int, folder: Path) -> None:
        shutil.rmtree(folder)
        self._port = port
        self._up, self._done = threading.Event(), threading.Event()
        self._todo: deque[str] = deque()
        self._outstanding: set[str] = set()
        self._arrived: list[str] = []
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_connect = lambda *_: self._up.set()
        self._client.on_message = self._received

    async def connect(self) -> None:
        """Return when the broker accepted it."""
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert await asyncio.to_thread(self._up.wait, _CONNECT_S_MAX)

    async def fetch(self, entry: FileEntry) -> bool:
        """Fetch the chunks; return whether all came."""
        self._todo.extend(entry.chunks)
        self._fill()
        await asyncio.to_thread(self._done.wait)
        return True

    async def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    def _fill(self) -> None:
        if len(self._outstanding) > CHUNK_WINDOW_DEFAULT // 2:
            return
        count = min(CHUNK_WINDOW_DEFAULT - len(self._outstanding), len(self._todo))
        taken = [self._todo.popleft() for _ in range(count)]
        if self._arrived:
            self._client.unsubscribe([topics.chunk(digest) for digest in self._arrived])
            self._arrived.clear()
        if taken:
            self._outstanding.update(taken)
            self._client.subscribe([(topics.chunk(digest), 1) for digest in taken])
        elif not self._outstanding:
            self._done.set()

    def _received(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        digest = topics.parse_chunk(message.topic) or ""
        if digest in self._outstanding and hashlib.sha256(message.payload).hexdigest() == digest:
            self._outstanding.discard(digest)
            self._arrived.append(digest)
            self._fill()


def _described(lines: list[str]) -> FileEntry:
    length, digest, *chunks = lines
    return FileEntry(name="model", length=int(length), digest=digest, chunks=tuple(chunks))


async def run(kind: str, port: int, count: int, name: str, root: Path) -> int:
    """Connect all, wait for the word, fetch with all at once; return how many have everything."""
    entry = _described(sys.stdin.readline().split())
    devices: list[AgentDevice | BareDevice] = []
    for number in range(count):
        folder = root / f"{name}-{number}"
        folder.mkdir(parents=True)
        make = AgentDevice if kind == "agent" else BareDevice
        devices.append(make(f"{name}-{number}", port, folder))
    await asyncio.gather(*(device.connect() for device in devices))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    whole = await asyncio.gather(*(device.fetch(entry) for device in devices))
    print(sum(whole), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await asyncio.gather(*(device.close() for device in devices))
    return 0


if __name__ == "__main__":
    _, KIND, PORT, COUNT, NAME, FOLDER = sys.argv
    sys.exit(asyncio.run(run(KIND, int(PORT), int(COUNT), NAME, Path(FOLDER))))
