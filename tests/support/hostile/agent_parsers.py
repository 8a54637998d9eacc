"""The table of parsers: what clients, children and disks tell a device."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
import struct
import tempfile
import zlib
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec

from agent import config, enrolment, identity, local_control, task, task_messages
from agent.deployment import captures, slots, upload_policy
from agent.deployment.lifecycle import Record
from agent.inference import (
    breadcrumbs,
    content_coding,
    control,
    control_server,
    deaths,
    delegates,
    hosted,
    http,
    losses,
    protocol,
    selftest,
    tensors,
)
from agent.inference.breadcrumbs import Act, Breadcrumbs
from agent.inference.quantization import Port
from agent.inference.refused import Refused
from agent.inference.served import _real
from agent.inference.verdicts import Probe
from agent.store import journal, state, state_schema
from agent.telemetry import feedback, reading, rows
from firmware_bundles import golden, windows
from firmware_bundles.errors import ShoalError
from firmware_bundles.identifiers import parse
from firmware_bundles.manifest import Tensor
from firmware_bundles.sketches.baseline import Value
from firmware_bundles.wire.messages import WINDOW_PATTERN, Capture
from support import journal_rows
from support.hostile.bundle_parsers import _golden
from support.hostile.inputs import Form
from support.hostile.parser import Parser, from_file, in_folder, text_of
from support.hostile.wire_parsers import DIGEST, FAULT, INCARNATION, owners
from support.owners import NOW

_PORTS: Final = (
    Port(Tensor(name="image", datatype="INT8", shape=(1, 2, 2), scale=0.5, zero_point=-3)),
    Port(Tensor(name="flag", datatype="BOOL", shape=(1,))),
    Port(Tensor(name="count", datatype="UINT64", shape=(1,))),
    Port(Tensor(name="half", datatype="FP16", shape=(1,))),
)
_OUTPUTS: Final = {"probs": ["FP32", "INT8"], "class": ["BYTES"]}
_REFUSALS: Final = (ShoalError, Refused)


def _inference_body() -> bytes:
    inputs = (
        {"name": "image", "shape": [1, 2, 2], "datatype": "FP32", "data": [0, 1.5, 2, 3]},
        {"name": "flag", "shape": [1], "datatype": "BOOL", "data": [True]},
        {"name": "count", "shape": [1], "datatype": "UINT64", "data": [7]},
        {"name": "half", "shape": [1], "datatype": "FP16", "data": [0.5]},
    )
    return msgspec.json.encode({"id": "1", "inputs": inputs, "outputs": [{"name": "probs"}]})


def _binary_body() -> bytes:
    inputs = (
        {"name": "image", "shape": [1, 2, 2], "datatype": "INT8",
         "parameters": {"binary_data_size": 4}},
        {"name": "flag", "shape": [1], "datatype": "BOOL", "parameters": {"binary_data_size": 1}},
        {"name": "count", "shape": [1], "datatype": "UINT64",
         "parameters": {"binary_data_size": 8}},
        {"name": "half", "shape": [1], "datatype": "FP16", "parameters": {"binary_data_size": 2}},
    )  # fmt: skip
    head = msgspec.json.encode({"inputs": inputs, "parameters": {"binary_data_output": True}})
    return len(head).to_bytes(4, "big") + head + bytes(15)


def _take_binary(data: bytes) -> object:
    """The length of the JSON, which travels in a header, and the body behind it."""
    return tensors.take(data[4:], _PORTS, _OUTPUTS, int.from_bytes(data[:4], "big"))


def _take_alone(data: bytes) -> object:
    return tensors.take(data, _PORTS[:1], _OUTPUTS, 0)


def _http_request() -> bytes:
    body = b"4\r\nbody\r\n0\r\n\r\n"
    return b"POST /x?y HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n" + body


class _Pipe(asyncio.Transport):
    """A transport that keeps nothing."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closing = False

    def write(self, data: object) -> None:
        pass

    def close(self) -> None:
        self._is_closing = True

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def _converse(data: bytes) -> object:
    """A client that says this, in pieces, to a handler that answers at once."""

    async def run() -> list[http.Request]:
        seen: list[http.Request] = []

        def answer(request: http.Request) -> http.Response:
            seen.append(request)
            return http.Response(200, b"")

        limits = http.HttpLimits(1, 100_000, 100_000, 1, 1)
        server = http.Server(answer, limits)
        connection = http.Connection(server)
        connection.connection_made(_Pipe())
        for start in range(0, len(data), 4096):
            connection.data_received(data[start : start + 4096])
        connection.eof_received()
        connection.connection_lost(None)
        assert (server.body_bytes, len(server.connections)) == (0, 0)
        return seen

    return asyncio.run(run())


def _upload_policy(folder: Path, data: bytes) -> object:
    (folder / upload_policy.NAME).write_bytes(data)
    return upload_policy.read(folder, ".")


def _told(data: bytes) -> object:
    told = protocol.parse_feedback(data)
    feedback._quantised(told.values, (Value(name="revenue", scale=256.0),))
    return feedback._parse(told.id), feedback._index(told.label or 0, ("a", "b"))


def _feedback_bodies() -> list[bytes]:
    name = f"{INCARNATION}-3"
    said: list[dict[str, Any]] = [{"label": "a"}, {"label": 1}, {"values": {"revenue": 1.5}}]
    return [msgspec.json.encode({"id": name, **each}) for each in said]


def _golden_values(data: bytes) -> object:
    vectors = golden.parse(data)
    port = Port(Tensor(name="x", datatype="FP32", shape=(1, 2)))
    return _real(vectors.inputs, port, vectors.rows)


def _journal(path: Path) -> object:
    return [reading.read([each]) for each in journal.read(journal.JournalFile("", 1, path))]


def _journal_record(data: bytes) -> object:
    return rows.parse(data) if not data else journal_rows.read([data])


def _journal_file() -> bytes:
    frames = (
        struct.pack("<II", len(record), zlib.crc32(record)) + record
        for record in journal_rows.one_of_each()
    )
    return b"".join(frames)


def _breadcrumbs() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / breadcrumbs.NAME
        lane, _ = Breadcrumbs(path).lane("digits", DIGEST)
        lane.begin(Act.INVOKING, bytes(32))
        return path.read_bytes()


def _deaths(folder: Path, data: bytes) -> object:
    (folder / deaths.NAME).write_bytes(data)
    known = deaths.Register(folder).deaths
    return deaths.refused(known, DIGEST), deaths.killers(known, DIGEST, 1.0)


def _death() -> bytes:
    death = deaths.Death(time=1, act=Act.INVOKING, family="digits", model=DIGEST, input=DIGEST)
    return msgspec.json.encode([death, death])


def _state_record(folder: Path, data: bytes) -> object:
    """A record that damage or an older version left in the database."""
    path = folder / "state.db"
    path.write_bytes(_empty_state(folder))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO deployment VALUES ('digits', 1, CAST(? AS TEXT))", (data,))
    opened = state.State.open(path)
    try:
        return opened.records()
    finally:
        opened.close()


_made: dict[str, bytes] = {}


def _empty_state(folder: Path) -> bytes:
    if "state" not in _made:
        path = folder / "made.db"
        state_schema.prepare(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        _made["state"] = path.read_bytes()
    return _made["state"]


def _state_file(folder: Path, data: bytes) -> object:
    path = folder / "state.db"
    path.write_bytes(data)
    opened = state.State.open(path)
    try:
        return opened.records(), opened.floors()
    finally:
        opened.close()


def _state_seeds() -> list[bytes]:
    return [in_folder(lambda folder, _: _empty_state(folder))(b"")]


def _record() -> bytes:
    order = owners().order("1")
    record = Record(
        family="digits", generation=1, model=order.model, rollout="r-1", arm=order.arm,
        policy=order.policy, slot="A", previous=None, fault=FAULT,
    )  # fmt: skip
    return msgspec.json.encode(record)


def _identity(folder: Path, data: bytes) -> object:
    place = folder / identity.FOLDER
    place.mkdir()
    for name, mode in identity.MODES.items():
        (place / name).write_bytes(b"x")
        (place / name).chmod(mode)
    (place / identity.FACTS).write_bytes(data)
    return identity.load(folder)


def _facts() -> bytes:
    facts = identity.Facts(device="dev-1", server="https://host", broker="mqtts://host:8883")
    return msgspec.json.encode(facts)


def _settings(folder: Path, data: bytes) -> object:
    (folder / config.FILE_NAME).write_bytes(data)
    return config.load(folder, {}, MappingProxyType({}))


def _pointer(folder: Path, data: bytes) -> object:
    (folder / "digits").mkdir()
    (folder / "digits" / slots.POINTER_NAME).write_bytes(data)
    return slots.serving(folder, "digits")


def _task_request() -> bytes:
    request = task_messages.Renew(state_dir="/tmp/x", now=NOW)  # noqa: S108 - only a text
    return msgspec.json.encode(request)


def _admit() -> bytes:
    request = task_messages.Admit(
        metadata_dir="/x", root=b"{}", files={"timestamp.json": b"{}"}, envelope=b"{}",
        device="dev-1", generations={"digits": 1}, nonce=None, now=NOW, time_floor=NOW,
    )  # fmt: skip
    return msgspec.json.encode(request)


def _task_answers() -> list[bytes]:
    answers = (
        task_messages.Admitted(marks={}, proved=NOW),
        task_messages.Signed(envelope=b"{}"),
        task_messages.Renewed(is_new=False, due=NOW, expires=NOW),
        task_messages.Refusal(code="trust.expired", message="x"),
    )
    return [msgspec.json.encode(answer) for answer in answers]


def _worker_lines() -> list[bytes]:
    family = control.FamilyStatus(digest=DIGEST, version="v1")
    lines: tuple[control.Line, ...] = (
        control.StatusAnswer(incarnation=INCARNATION, families={"digits": family}),
        _tested(),
        control.Done(family=family),
        control.Refusal(code="device.slot_broken", message="x"),
    )
    return [msgspec.json.encode(line) for line in lines]


def _tested() -> control.SelfTestAnswer:
    return control.SelfTestAnswer(
        digest=DIGEST, runtime="x", rows=3, difference_lsb_max=1.0, difference_absolute_max=0.1,
        latency_us_p50=5.0, latency_us_max=9.0, memory_bytes_peak=1000,
    )  # fmt: skip


def _requests() -> list[bytes]:
    asked: tuple[control.Request, ...] = (
        control.Status(), control.SelfTest("digits", "A"), control.Swap("digits"),
    )  # fmt: skip
    return [msgspec.json.encode(each) for each in asked]


def _local_requests() -> list[bytes]:
    asked: tuple[local_control.Request, ...] = (
        local_control.MarkSlot(family="digits", slot="other", mark="bad"),
        local_control.RollBack(family="digits"),
    )
    return [msgspec.json.encode(each) for each in asked]


def _kept_capture() -> list[bytes]:
    policy = Capture(fields=("image", "age[0]"), share=0.5, drifted=("image[3]",))
    return [msgspec.json.encode(captures.Kept(digest=DIGEST, capture=policy))]


def _window(data: bytes) -> object:
    """What an assignment's pattern lets through."""
    kind = Annotated[str, msgspec.Meta(pattern=WINDOW_PATTERN)]
    return windows.parse_window(parse(kind, text_of(data), "window"))


def _json(name: str, parse: Any, seeds: Any, **more: Any) -> Parser:  # noqa: ANN401 - Parser's own
    return Parser(name=name, parse=parse, make_seeds=seeds, form=Form.JSON, **more)


def _loaded_key(path: Path) -> object:
    path.chmod(0o600)  # one that others may read is refused unread
    return enrolment._load(path)


PARSERS: Final = (
    Parser(
        name="upload policy",
        parse=in_folder(_upload_policy),
        make_seeds=lambda: [b'{"predictions_share":0.5,"bytes_per_day_max":1000}'],
        form=Form.JSON,
        cost=4,
    ),
    _json(
        "inference request",
        lambda data: tensors.take(data, _PORTS, _OUTPUTS),
        lambda: [_inference_body()],
        refusals=_REFUSALS,
    ),
    Parser(
        name="inference request with binary tensors",
        parse=_take_binary,
        make_seeds=lambda: [_binary_body()],
        refusals=_REFUSALS,
    ),
    Parser(
        name="tensor without JSON",
        parse=_take_alone,
        make_seeds=lambda: [bytes(4), bytes(16)],
        refusals=_REFUSALS,
    ),
    Parser(
        name="compressed body",
        parse=lambda data: content_coding.decode(data, "gzip", 100_000),
        make_seeds=lambda: [gzip.compress(_inference_body())],
        refusals=_REFUSALS,
    ),
    Parser(
        name="deflated body",
        parse=lambda data: content_coding.decode(data, "deflate", 100_000),
        make_seeds=lambda: [zlib.compress(b"x" * 9), zlib.compress(b"x" * 9, wbits=-15)],
        refusals=_REFUSALS,
    ),
    Parser(
        name="accepted content codings",
        parse=content_coding.chosen,
        make_seeds=lambda: [b"br, gzip;q=0.5, deflate;q=0"],
        refusals=_REFUSALS,
    ),
    Parser(name="HTTP", parse=_converse, make_seeds=lambda: [_http_request() * 2]),
    _json("feedback", _told, _feedback_bodies, refusals=_REFUSALS),
    Parser(
        name="golden values",
        parse=_golden_values,
        make_seeds=lambda: [_golden()],
        form=Form.MSGPACK,
    ),
    Parser(name="journal", parse=from_file(_journal), make_seeds=lambda: [_journal_file()]),
    Parser(
        name="breadcrumbs",
        parse=from_file(lambda path: deaths.traced(Breadcrumbs(path).left, 1.0, "")),
        make_seeds=lambda: [_breadcrumbs()],
        cost=3,
    ),
    _json("deaths", in_folder(_deaths), lambda: [_death()]),
    Parser(
        name="record of the journal", parse=_journal_record, make_seeds=journal_rows.one_of_each
    ),
    _json("deployment's record", in_folder(_state_record), lambda: [_record()], cost=10),
    Parser(name="state database", parse=in_folder(_state_file), make_seeds=_state_seeds, cost=10),
    _json("identity", in_folder(_identity), lambda: [_facts()], cost=3),
    Parser(
        name="broker's address",
        parse=lambda data: identity.parse_broker(text_of(data)),
        make_seeds=lambda: [b"mqtts://host:8883", b"mqtt://127.0.0.1", b"mqtts://[::1]:1"],
    ),
    Parser(
        name="settings of the agent",
        parse=in_folder(_settings),
        make_seeds=lambda: [b"keepalive_s = 30\nchunk_window = 8\nhello_jitter_s = 0.5\n"],
        cost=2,
    ),
    Parser(name="slot's pointer", parse=in_folder(_pointer), make_seeds=lambda: [b"A\n"], cost=3),
    Parser(
        name="device's key",
        parse=from_file(_loaded_key),
        make_seeds=lambda: [in_folder(_made_key)(b"")],
    ),
    _json("task's request", task._parse, lambda: [_task_request(), _admit()]),
    _json("task's answer", task_messages.parse_answer, _task_answers),
    _json("policy for captures", captures.parse, _kept_capture),
    _json("request at the device", local_control._parse, _local_requests),
    Parser(
        name="maintenance window",
        parse=_window,
        make_seeds=lambda: [b"sat,sun 22:00-05:00", b"00:00-23:59"],
    ),
    _json("worker's request", control_server._parse, _requests),
    _json("worker's answer", control.parse_line, _worker_lines),
    Parser(
        name="accelerators",
        parse=delegates.parse,
        make_seeds=lambda: [
            b'[[delegate]]\nkind = "external"\nname = "a"\nlibrary = "/a"\noptions = {b = 1}\n',
            b'[[delegate]]\nkind = "compiled"\nname = "a"\naccelerator = "npu"\nretry_s = 1.5\n',
        ],
    ),
    _json(
        "note of accelerators",
        losses.parse,
        lambda: [b'{"in_use":["a/b"],"lost":{"a/c":{"count":2,"at":1.5,"reason":"why"}}}'],
    ),
    _json(
        "probe's answer",
        hosted.parse_probe,
        lambda: [msgspec.json.encode(_probed())],
    ),
    _json(
        "self-test's answer",
        lambda data: selftest._verdict(0, data, data),
        lambda: [msgspec.json.encode(_tested())],
    ),
)


def _probed() -> Probe:
    return Probe(
        nodes=1,
        taken=2,
        operations=3,
        difference_lsb_max=0.5,
        difference_absolute_max=0.1,
        latency_us=5.0,
        cpu_latency_us=9.0,
    )


def _made_key(folder: Path, _data: bytes) -> bytes:
    enrolment._make(folder / "key")
    return (folder / "key").read_bytes()
