"""The bytes of every message, fixed for ever: what one release wrote, every later one reads."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles.errors import (
    AuthenticationFailed,
    Malformed,
    MessageTooLarge,
    ShoalError,
    VersionUnsupported,
)
from firmware_bundles.wire import codec, messages

KEY = messages.SegmentKey(
    incarnation="00112233445566ff", kind=messages.SegmentKind.PREDICTIONS, first=1, last=64
)
KEY_HEX = (
    "84ab696e6361726e6174696f6eb030303131323233333434353536366666a46b696e64ab707265646963"
    "74696f6e73a5666972737401a46c61737440"
)
ORDER = messages.Order(
    family="digits",
    generation=8,
    model=messages.ModelReference(path="digits/2/manifest.json", digest="a" * 64, length=900),
    rollout="digits-v2",
    arm=messages.Arm.CANDIDATE,
)
PATCH = messages.PatchReference(file="model.tflite", source="b" * 64, length=820, content="c" * 64)
EXAMPLES: dict[str, tuple[messages.Message, bytes]] = {
    "presence": (
        messages.Presence(online=True, connection="ab" * 16),
        b'{"schema":"1.0","online":true,"connection":"abababababababababababababababab"}',
    ),
    "hello": (
        messages.Hello(
            nonce="cd" * 16,
            incarnation="00112233445566ff",
            agent_version="0.1.0",
            generations={"digits": 7},
            inventory_digest="e" * 64,
        ),
        b'{"schema":"1.0","nonce":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd",'
        b'"incarnation":"00112233445566ff","agent_version":"0.1.0","generations":{"digits":7},'
        b'"inventory_digest":"' + b"e" * 64 + b'"}',
    ),
    "hint": (
        messages.RepositoryHint(root=2, files=("2.root.json", "timestamp.json")),
        b'{"schema":"1.0","root":2,"files":["2.root.json","timestamp.json"]}',
    ),
    "hint with an index": (
        messages.RepositoryHint(root=2, files=("2.root.json",), indexed=("2.root.json",)),
        b'{"schema":"1.0","root":2,"files":["2.root.json"],"indexed":["2.root.json"]}',
    ),
    "index": (
        messages.FileIndex(length=70_000, chunks=("a" * 64, "b" * 64)),
        b'{"schema":"1.0","length":70000,"chunks":["' + b"a" * 64 + b'","' + b"b" * 64 + b'"]}',
    ),
    "assignment": (
        messages.Assignment(
            device="dev-1", issued=1000.0, expires=1600.0, orders=(ORDER,), nonce="cd" * 16
        ),
        b'{"schema":"1.0","device":"dev-1","issued":1000.0,"expires":1600.0,"orders":['
        b'{"family":"digits","generation":8,"model":{"path":"digits/2/manifest.json","digest":"'
        + b"a"
        * 64
        + b'","length":900},"rollout":"digits-v2","arm":"candidate","policy":{"probation_s":60.0,'
        b'"self_test_s_max":30.0,"attempts_max":3}}],"nonce":"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"}',
    ),
    "assignment with a patch": (
        messages.Assignment(
            device="dev-1",
            issued=1000.0,
            expires=1600.0,
            orders=(msgspec.structs.replace(ORDER, patches=(PATCH,)),),
        ),
        b'{"schema":"1.0","device":"dev-1","issued":1000.0,"expires":1600.0,"orders":['
        b'{"family":"digits","generation":8,"model":{"path":"digits/2/manifest.json","digest":"'
        + b"a"
        * 64
        + b'","length":900},"rollout":"digits-v2","arm":"candidate","policy":{"probation_s":60.0,'
        b'"self_test_s_max":30.0,"attempts_max":3},"patches":[{"file":"model.tflite","source":"'
        + b"b" * 64
        + b'","length":820,"content":"'
        + b"c" * 64
        + b'"}]}],"nonce":null}',
    ),
    "report": (
        messages.Report(
            device="dev-1",
            incarnation="00112233445566ff",
            counter=3,
            time=1200.5,
            agent_version="0.1.0",
            families=(
                messages.FamilyReport(
                    family="digits", generation=8, state=messages.DeploymentState.PROBATION
                ),
            ),
        ),
        (
            b'{"schema":"1.0","device":"dev-1","incarnation":"00112233445566ff","counter":3,'
            b'"time":1200.5,"agent_version":"0.1.0","families":[{"family":"digits","generation":8,'
            b'"state":"probation","rollout":null,"serving":null,"fault":null}],"detected":[],'
            b'"inventory":{},"buffer":{"segments":0,"bytes":0,"rows_dropped":0}}'
        ),
    ),
    "segment": (
        messages.Segment(
            key=KEY,
            family="digits",
            model="a" * 64,
            rows=64,
            started=1.0,
            ended=2.0,
            body=b"\x00\x01",
        ),
        bytes.fromhex(
            "88a6736368656d61a3312e30a36b6579"
            + KEY_HEX
            + "a666616d696c79a6646967697473a56d6f64656cd940"
            + "61" * 64
            + "a4726f777340a773746172746564cb3ff0000000000000"
            "a5656e646564cb4000000000000000a4626f6479c4020001"
        ),
    ),
    "acknowledgement": (
        messages.Acknowledgement(key=KEY),
        bytes.fromhex("83a6736368656d61a3312e30a36b6579" + KEY_HEX + "a56661756c74c0"),
    ),
}
KINDS = [type(message) for message, _ in EXAMPLES.values()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_message_keeps_its_bytes(name: str) -> None:
    """Every message is written as the bytes of the first release, and read back equal."""
    message, golden = EXAMPLES[name]
    assert codec.encode(message) == golden
    assert codec.decode(type(message), golden) == message


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_newer_minor_version_is_read_without_its_new_fields(name: str) -> None:
    """Fields that a newer minor version added are ignored."""
    message, golden = EXAMPLES[name]
    engine = msgspec.json if golden.startswith(b"{") else msgspec.msgpack
    newer = engine.encode(engine.decode(golden) | {"schema": "1.7", "added": [1]})
    assert codec.decode(type(message), newer) == msgspec.structs.replace(message, schema="1.7")


@pytest.mark.parametrize("schema", ["2.0", "0.9", "10.0"])
def test_another_major_version_is_refused(schema: str) -> None:
    """A message of another major version is refused before its fields are looked at."""
    with pytest.raises(VersionUnsupported):
        codec.decode(messages.Presence, msgspec.json.encode({"schema": schema}))


def test_a_message_over_its_limit_is_not_parsed() -> None:
    """The size is checked before anything else."""
    with pytest.raises(MessageTooLarge, match="at most 1024"):
        codec.decode(messages.Presence, b"[" * 100_000)


def test_a_tag_binds_key_topic_and_body() -> None:
    """A sealed message is refused under another key, on another topic, or with another body."""
    message, _ = EXAMPLES["acknowledgement"]
    data = codec.seal(b"k" * 32, "a/b", message)
    assert codec.unseal(messages.Acknowledgement, b"k" * 32, "a/b", data) == message
    for key, topic, body in [
        (b"x" * 32, "a/b", data),
        (b"k" * 32, "a/c", data),
        (b"k" * 32, "a/b", data[:-1] + bytes([data[-1] ^ 1])),
        (b"k" * 32, "a/b", data[:10]),
        (b"k" * 32, "a/b", b""),
    ]:
        with pytest.raises(AuthenticationFailed):
            codec.unseal(messages.Acknowledgement, key, topic, body)


@given(data=st.binary(max_size=400), kind=st.sampled_from(KINDS))
def test_only_errors_of_the_tree_come_out(data: bytes, kind: type[messages.Message]) -> None:
    """No foreign bytes make the codec raise anything but an error of shoal."""
    with contextlib.suppress(ShoalError):
        codec.decode(kind, data)


@given(
    place=st.integers(0, 10_000), byte=st.integers(0, 255), name=st.sampled_from(sorted(EXAMPLES))
)
def test_a_damaged_message_is_read_whole_or_refused(place: int, byte: int, name: str) -> None:
    """A message with one byte changed is read as a whole or refused with an error of shoal."""
    message, golden = EXAMPLES[name]
    damaged = bytearray(golden)
    damaged[place % len(damaged)] = byte
    with contextlib.suppress(ShoalError):
        codec.decode(type(message), bytes(damaged))


@pytest.mark.parametrize(
    "generations",
    [{"Digits": 1}, {"digits/x": 1}, {"digits\n": 1}, {"digits": -1}, {"digits": True}],
)
def test_names_and_counts_are_checked_while_parsing(generations: dict[str, int]) -> None:
    """A hello with an impossible family name or generation is malformed as a whole."""
    _, golden = EXAMPLES["hello"]
    wrong = msgspec.json.decode(golden) | {"generations": generations}
    with pytest.raises(Malformed):
        codec.decode(messages.Hello, msgspec.json.encode(wrong))
