"""Devices in the field: real agents over a real mosquitto, and somebody who directs them.

The director stands in for a whole control plane: it retains repository and chunks, answers hellos
and keeps reports. Each device reaches the broker through a proxy of its own, and anything of it
may be killed. What must hold however that goes is checked here as well.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from agent import identity as identities
from agent.deployment import lifecycle, slots
from agent.store import state_schema
from control_plane.broker import mosquitto
from firmware_bundles import chunks, manifest
from firmware_bundles.errors import SlotBroken
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import Assignment, Hello, Order, Policy, RepositoryHint
from processes import Program, children_of, command_line, free_port, program
from support import stored
from support.bundles import Sample, images, turned
from support.owners import Owners
from support.tcp_proxy import TcpProxy
from support.workers import infer

FAMILY = "digits"
BAD = "bad"  # the version that fails its self-test
WAIT_S_MAX = 40.0
_SETTLES_S_MAX = 20.0
_SOURCES = {"1": "v1", "2": "v2", "3": "v1", BAD: "v2"}
# From each to one that lies in neither slot, so that every update is a download.
NEXT = {"1": "2", "2": "3", "3": "1"}
_BALLAST_BYTES = 600_000
_BYTES_PER_S = 2_000_000.0  # slow enough that a kill finds a download under way
# Short times, so that much happens while a test looks.
_SETTINGS = {
    "SHOAL_AGENT_RECONNECT_S_MIN": "0.05",
    "SHOAL_AGENT_RECONNECT_S_MAX": "0.3",
    "SHOAL_AGENT_HELLO_JITTER_S": "0.02",
    "SHOAL_AGENT_HELLO_RETRY_S": "2",
    "SHOAL_AGENT_CHUNK_STALL_S": "3",
    "SHOAL_AGENT_WORKER_PATIENCE_S": "15",
    "SHOAL_INFERENCE_SEGMENT_AGE_S": "1",
}


class Director:
    """A mosquitto with everything retained, and the answers that a control plane gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.owners = Owners(now=time.time())
        self.chunks: dict[str, bytes] = {}
        self.files: tuple[manifest.FileEntry, ...] = ()
        self.orders: dict[str, Order] = {}
        self.reports: dict[str, int] = {}
        self.repeats = 1
        self._retained: dict[str, bytes] = {}
        self._broker: Program | None = None
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "director", protocol=mqtt.MQTTv311)
        self._client.max_queued_messages_set(0)
        self._connected = threading.Event()
        self._client.on_connect = self._greeted
        self._client.on_message = self._heard

    def start(self) -> None:
        """Start the broker and retain what there is."""
        self.start_broker()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        assert self._connected.wait(WAIT_S_MAX)

    def start_broker(self) -> None:
        """Start a broker that remembers nothing."""
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 20000\nmax_inflight_messages 100\nset_tcp_nodelay true\n"
        )
        found = mosquitto.find()
        assert found is not None
        self._broker = Program(
            "mosquitto", [found, "-c", str(config)], self.folder / "broker.log", os.environ
        )
        self._broker.wait_for(self._listens, "listener", WAIT_S_MAX)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop_broker(self) -> None:
        """Kill the broker; what it retained is gone."""
        assert self._broker is not None
        self._connected.clear()
        self._broker.stop()

    def stop(self) -> None:
        """End everything."""
        self._client.disconnect()
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()
        if self._broker is not None:
            self._broker.stop()

    def publish(self, versions: Mapping[str, Sample]) -> None:
        """Sign releases, and retain them."""
        for version, sample in versions.items():
            facts = sample.manifest()
            self.files += facts.files
            data = manifest.encode(facts)
            for body in (data, *sample.files.values()):
                self.chunks |= {each.digest: each.data for each in chunks.cut(body)}
            self.owners.publish(version, data)
        files = self.owners.seal()
        self._retained = {topics.chunk(digest): data for digest, data in self.chunks.items()}
        self._retained |= {topics.repository_file(name): data for name, data in files.items()}
        self._retained[topics.REPOSITORY_HINT] = codec.encode(
            RepositoryHint(root=1, files=tuple(sorted(files)))
        )
        self.retain()

    def retain(self) -> None:
        """Publish everything, the hint last, once the broker answers."""
        assert self._connected.wait(WAIT_S_MAX)
        last = None
        for topic, payload in self._retained.items():
            last = self._client.publish(topic, payload, qos=1, retain=True)
        if last is not None:
            last.wait_for_publish(WAIT_S_MAX)

    def order(self, device: str, version: str, policy: Policy) -> Order:
        """Let a device run a version, under a newer generation; push it."""
        known = self.orders.get(device)
        order = msgspec.structs.replace(
            self.owners.order(version, generation=known.generation + 1 if known else 1),
            policy=policy,
        )
        self.orders[device] = order
        self._send(device, [order], None)
        return order

    def say(self, topic: str, payload: bytes) -> None:
        """Publish something that is not retained."""
        self._client.publish(topic, payload, qos=1)

    def repeat_older(self, device: str, order: Order) -> None:
        """Send a device what came before this order: a replay."""
        self._send(device, [msgspec.structs.replace(order, generation=order.generation - 1)], None)

    def _greeted(self, client: mqtt.Client, *_: object) -> None:
        client.subscribe(
            [(topics.up("+", each), 1) for each in (topics.Up.HELLO, topics.Up.REPORT)]
        )
        self._connected.set()

    def _heard(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        device, kind = topics.parse_up(message.topic)
        if kind is topics.Up.REPORT:
            self.reports[device] = self.reports.get(device, 0) + 1
            return
        hello = codec.decode(Hello, bytes(message.payload))
        order = self.orders.get(device)
        is_newer = order is not None and order.generation > hello.generations.get(FAMILY, 0)
        self._send(device, [order] if order and is_newer else [], hello.nonce)

    def _send(self, device: str, orders: list[Order], nonce: str | None) -> None:
        now = time.time()
        message = Assignment(
            device=device, issued=now, expires=now + 600, orders=tuple(orders), nonce=nonce
        )
        envelope = envelopes.sign(message, self.owners.signers["director"])
        for _ in range(self.repeats):
            self._client.publish(topics.down(device, topics.Down.ASSIGNMENT), envelope, qos=1)


class Agent:
    """One device with its own state, its own proxy, and a real agent that may be killed."""

    def __init__(self, folder: Path, name: str, director: Director) -> None:
        self.name = name
        self.director = director
        self.state_dir = folder / name
        self.run_dir = folder / f"r-{name}"
        self.log = folder / f"{name}.log"
        self.log.touch()
        self.slots = self.state_dir / "slots"
        self.proxy = TcpProxy(("127.0.0.1", director.port))
        self.proxy.bytes_per_s = _BYTES_PER_S
        self.core: Program | None = None
        body = json.dumps(infer(images(1)[0])).encode()
        self._request = (
            f"POST /v2/models/{FAMILY}/infer HTTP/1.1\r\nHost: device\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self._enrol()

    def _enrol(self) -> None:
        """Write what an enrolment writes."""
        folder = self.state_dir / identities.FOLDER
        folder.mkdir(parents=True)
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        facts = identities.Facts(
            device=self.name,
            server="https://localhost:1",
            broker=f"mqtt://127.0.0.1:{self.proxy.port}",
        )
        files = {
            identities.KEY: key,
            identities.CERTIFICATE: b"none",
            identities.CA: b"none",
            identities.ROOT: self.director.owners.root,
            identities.SECRET: os.urandom(32),
            identities.FACTS: json.dumps(msgspec.to_builtins(facts)).encode(),
        }
        for name, data in files.items():
            (folder / name).write_bytes(data)
            (folder / name).chmod(identities.MODES[name])
        state_schema.prepare(self.state_dir / "state.db")

    def start(self, **settings: str) -> None:
        """Start the agent, as a service manager does after a death."""
        arguments = [
            program("shoal-agent"), "--state-dir", str(self.state_dir),
            "run", "--run-dir", str(self.run_dir),
        ]  # fmt: skip
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SHOAL_A")}
        self.core = Program(f"agent {self.name}", arguments, self.log, kept | _SETTINGS | settings)

    def stop(self) -> None:
        """Stop it in order."""
        if self.core is not None:
            self.core.stop()
        self.proxy.close()

    def kill(self, victim: str) -> bool:
        """Kill the core, the worker or a task with SIGKILL; False where there is none now."""
        assert self.core is not None
        if victim == "core":
            self.core.kill()
            return True
        module = {"worker": "agent.inference.worker", "task": "agent.task"}[victim]
        pids = [pid for pid in children_of(self.core.pid) if module in command_line(pid)]
        for pid in pids[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def kill_whole(self) -> None:
        """Kill the core, and wait until the worker has closed its files and is gone, too."""
        assert self.core is not None
        others = children_of(self.core.pid)
        self.core.kill()
        wait_until(lambda: not any(map(command_line, others)), "no process of it is left")

    def worker_pid(self) -> int | None:
        """The process id of the worker, if there is one now."""
        assert self.core is not None
        pids = children_of(self.core.pid)
        return next((p for p in pids if "agent.inference.worker" in command_line(p)), None)

    def record(self) -> lifecycle.Record | None:
        """The newest deployment, as it stands on the disk."""
        address = f"file:{self.state_dir / 'state.db'}?mode=ro"
        with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as database:
            row = database.execute("SELECT record FROM deployment").fetchone()
            return msgspec.json.decode(row[0], type=lifecycle.Record) if row else None
        return None

    def has_ended(self, generation: int) -> bool:
        """Whether the deployment with this generation is over."""
        record = self.record()
        return bool(record and record.generation >= generation and not lifecycle.is_open(record))

    def answers(self) -> str | None:
        """The version that answers an inference, None where none does now."""
        with suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as line:
            line.settimeout(5.0)
            line.connect(str(self.run_dir / "inference.sock"))
            line.sendall(self._request)
            answer = b""
            while piece := line.recv(65536):
                answer += piece
            head, _, body = answer.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 200 "):
                return str(json.loads(body)["model_version"])
        return None

    def away_s(self) -> float:
        """Seconds from now until something answers again, at most WAIT_S_MAX."""
        began = time.monotonic()
        while self.answers() is None and time.monotonic() - began < WAIT_S_MAX:
            time.sleep(0.01)
        return time.monotonic() - began

    def stored_chunks(self) -> set[str]:
        """The chunks that lie whole on the disk."""
        return stored.chunks_in(self.state_dir / "chunks", self.director.files)

    def held_versions(self) -> set[str]:
        """The versions that lie whole in a slot."""
        held = set()
        for name in slots.NAMES:
            with suppress(SlotBroken):
                held.add(slots.read(slots.slot(self.slots, FAMILY, name)).version)
        return held

    def broken_promises(self, before: str | None) -> list[str]:
        """What does not hold now that a deployment has ended; `before` is what served before it."""
        record, wrong = self.record(), []
        if record is None:
            return ["there is no record"]
        if lifecycle.is_open(record):
            wrong.append(f"the deployment is still {record.state}")
        is_committed = record.state == "committed"
        if is_committed is (record.fault is not None):
            wrong.append(f"it is {record.state} with the fault {record.fault}")
        serving = slots.serving(self.slots, FAMILY)
        if serving is None:
            return wrong if before is None else [*wrong, "nothing serves"]
        version = slots.read(serving).version  # raises SlotBroken: it is whole and verified
        wanted = record.model.path.split("/")[1] if is_committed else before
        if version != wanted:
            wrong.append(f"{version} serves, not {wanted}, though it is {record.state}")
        if not slots.is_good(serving):
            wrong.append(f"{version} serves and is not marked good")
        ends = time.monotonic() + _SETTLES_S_MAX
        while (answered := self.answers()) != version and time.monotonic() < ends:
            time.sleep(0.05)
        if answered != version:
            wrong.append(f"{answered} answers, not {version}")
        return wrong

    def serving_version(self) -> str | None:
        """The version that the pointer names. Raises SlotBroken."""
        serving = slots.serving(self.slots, FAMILY)
        return slots.read(serving).version if serving else None


def wait_until(holds: object, what: str, within_s: float = WAIT_S_MAX) -> None:
    """Poll until `holds()`. Raises AssertionError."""
    assert callable(holds)
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)


def samples() -> dict[str, Sample]:
    """Releases with ballast of their own, so that a download takes a while; one is bad."""
    found = {version: Sample(source, version) for version, source in _SOURCES.items()}
    for sample in found.values():
        sample.files["ballast.bin"] = os.urandom(_BALLAST_BYTES)
    found[BAD].files["golden.msgpack"] = turned(found[BAD].files["golden.msgpack"])
    return found


@contextmanager
def field(folder: Path, count: int) -> Iterator[tuple[Director, list[Agent]]]:
    """A director and agents that serve version 1."""
    director = Director(folder)
    agents: list[Agent] = []
    try:
        director.start()
        director.publish(samples())
        agents = [Agent(folder, f"d{place}", director) for place in range(count)]
        for agent in agents:
            agent.start()
            director.order(agent.name, "1", Policy(probation_s=0.2))
        for agent in agents:
            wait_until(lambda agent=agent: agent.has_ended(1), f"{agent.name} has version 1")
            wait_until(lambda agent=agent: agent.answers() == "1", f"{agent.name} answers")
        yield director, agents
    finally:
        for agent in agents:
            with suppress(subprocess.SubprocessError, OSError):
                agent.stop()
        director.stop()
