"""The table of parsers: what is said over MQTT and HTTPS."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import msgspec
import numpy as np

from firmware_bundles import limits
from firmware_bundles.errors import EnrolmentRefused
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches import evidence, watch, watch_codec
from firmware_bundles.sketches.baseline import Baseline, make
from firmware_bundles.sketches.change import QUESTIONS, Reference
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, columns, compression, messages, samples, topics, varints
from firmware_bundles.wire.enrolment import Enrolment, EnrolmentRequest
from support import segments
from support.hostile.inputs import Form
from support.hostile.parser import Parser, text_of
from support.owners import NOW, Owners

KEY: Final = b"k" * 32
DEVICE: Final = "dev-1"
DIGEST: Final = "a" * 64
NONCE: Final = "0" * 32
INCARNATION: Final = "0" * 16
FAULT: Final = messages.Fault(code="bundle.refused", message="it is refused")
TOPIC: Final = topics.up(DEVICE, topics.Up.TELEMETRY)


@cache
def owners() -> Owners:
    """A repository with two releases."""
    made = Owners()
    made.publish("1")
    made.publish("2", b'{"example":2}', min_release=1)
    return made


def examples() -> dict[type[messages.Message], Sequence[messages.Message]]:
    """One good message of each kind at least, with every field filled."""
    serving = messages.Serving(
        digest=DIGEST, version="v1", runtime="x", delegate="cpu", since=NOW, answered=3
    )
    family = messages.FamilyReport(
        family="digits", generation=2, state=messages.DeploymentState.COMMITTED, rollout="r-1",
        serving=serving, fault=FAULT,
    )  # fmt: skip
    report = messages.Report(
        device=DEVICE, incarnation=INCARNATION, counter=1, time=NOW, agent_version="0.1",
        families=(family,), inventory={"arch": "x86", "cores": 2, "load": 0.5, "ok": True},
        detected=(messages.Detection(code="trust.rollback", message="x", count=1, last=NOW),),
        buffer=messages.BufferFacts(segments=1, bytes=10, rows_dropped=0),
    )  # fmt: skip
    key = messages.SegmentKey(
        incarnation=INCARNATION, kind=messages.SegmentKind.PREDICTIONS, first=1, last=3
    )
    assignment = messages.Assignment(
        device=DEVICE, issued=NOW, expires=NOW + 600, orders=(owners().order("1"),), nonce=NONCE
    )
    return {
        messages.Presence: (messages.Presence(online=True, connection=NONCE),),
        messages.Hello: (
            messages.Hello(
                nonce=NONCE, incarnation=INCARNATION, agent_version="0.1",
                generations={"digits": 3}, inventory_digest=DIGEST,
            ),
        ),
        messages.RepositoryHint: (
            messages.RepositoryHint(root=1, files=("1.root.json", "timestamp.json")),
        ),
        messages.Assignment: (assignment,),
        messages.Report: (report,),
        messages.Segment: (
            segments.predictions([1, 2, 3], [0, 1, 2]),
            segments.labels([1, 2], [1, 2], [3, 4]),
            segments.feedback([1, 2], [1, 2], [3, -1], places=[1, -1], values=[(1, "revenue", -9)]),
            segments.predictions([1, 2], [0, 1], places=[0, 2]),
        ),
        messages.Acknowledgement: (
            messages.Acknowledgement(key=key),
            messages.Acknowledgement(key=key, fault=FAULT),
        ),
    }  # fmt: skip


def _message(kind: type[messages.Message]) -> Parser:
    binary = kind in {messages.Segment, messages.Acknowledgement}
    return Parser(
        name=kind.__name__,
        parse=lambda data: codec.decode(kind, data),
        encode=codec.encode,
        make_seeds=lambda: [codec.encode(each) for each in examples()[kind]],
        form=Form.MSGPACK if binary else Form.JSON,
    )


def _envelope(kind: Any) -> Parser:  # noqa: ANN401 - the envelopes' type variable
    director = owners().signers["director"]
    return Parser(
        name=f"envelope of {kind.__name__}",
        parse=lambda data: envelopes.open_envelope(kind, data, [director.public_key]),
        make_seeds=lambda: [envelopes.sign(each, director) for each in examples()[kind]],  # type: ignore[arg-type]
        form=Form.JSON,
        cost=2,
    )


def _signed(kind: Any) -> Parser:  # noqa: ANN401 - as above
    """What a stolen director key, or the device that owns the key, can have signed."""
    from securesystemslib.dsse import Envelope

    director = owners().signers["director"]

    def parse(payload: bytes) -> Any:  # noqa: ANN401 - as above
        envelope = Envelope(payload, envelopes.PAYLOAD_TYPES[kind], {})
        envelope.sign(director)
        data = msgspec.json.encode(envelope.to_dict())
        envelopes.peek(kind, data)
        return envelopes.open_envelope(kind, data, [director.public_key])

    seeds = [codec.encode(each) for each in examples()[kind]]
    name = f"signed payload of {kind.__name__}"
    return Parser(name=name, parse=parse, make_seeds=lambda: seeds, form=Form.JSON, cost=2)


def _unseal_any(body: bytes) -> messages.Segment:
    tag = hmac.new(KEY, TOPIC.encode() + b"\0" + body, hashlib.sha256).digest()
    return codec.unseal(messages.Segment, KEY, TOPIC, tag + body)


def _topic(kind: str, parse: Callable[[str], object], *topics: str) -> Parser:
    return Parser(
        name=f"topic of {kind}",
        parse=lambda data: parse(text_of(data)),
        make_seeds=lambda: [topic.encode() for topic in topics],
    )


def _compressed(
    parse: Callable[[bytes], Any], version: int = columns.VERSION
) -> Callable[[bytes], Any]:
    """Return the parser behind the decompression, which random damage never gets through."""
    return lambda plain: parse(bytes([version]) + compression.deflate(plain))


def _plain(body: bytes) -> bytes:
    return compression.inflate(body[1:], limits.TELEMETRY_INFLATED_BYTES_MAX, "a seed")


def _predictions_body() -> bytes:
    return segments.predictions([1, 2, 900], [0, 1, -1]).body


def _samples_body() -> bytes:
    return segments.samples([1, 2, 900], classes=[0, 1, -1]).body


def _labels_body() -> bytes:
    return segments.labels([1, 2], [1, 2], [3, 4]).body


def _more_predictions_body() -> bytes:
    return segments.predictions([1, 2, 900], [0, 1, -1], places=[0, 3, 63]).body


def _feedback_body() -> bytes:
    values = [(0, "revenue", -9), (1, "revenue", 2**18), (1, "\u00e9", 0)]
    return segments.feedback([1, 2], [1, 2], [3, -1], places=[1, -1], values=values).body


@cache
def baseline() -> Baseline:
    """A small baseline with every kind of column."""
    numbers = np.random.default_rng(1)
    scores = numbers.random((400, 3)).astype(np.float32)
    return make({"x": numbers.normal(size=(400, 2)).astype(np.float32)}, scores, ("a", "b", "c"))


def _sketch_body() -> bytes:
    return sketch_codec.encode_sketch(Sketch.of_held_out(baseline()))


def _parse_sketch_plain(plain: bytes) -> Sketch:
    return sketch_codec.parse_sketch(_sketch_body()[:9] + compression.deflate(plain), baseline())


def _watches() -> list[bytes]:
    """A watch in commissioning, and one with evidence."""
    sketch = Sketch.of_held_out(baseline())
    streams = len(QUESTIONS) * len(baseline().columns)
    gathered = watch.Span(sketch, 1.0, 2.0)
    reference = Reference(sketch, baseline().window_rows)
    return [
        watch_codec.encode_watch(watch.Watch(gathered)),
        watch_codec.encode_watch(watch.Watch(gathered, reference, evidence.nothing(streams))),
    ]


def _enrolment() -> Enrolment:
    return Enrolment(
        device=DEVICE, certificate="PEM", ca="PEM", root=b"{}", broker="mqtts://h:1",
        telemetry_secret=KEY,
    )  # fmt: skip


def _enrolment_answer(data: bytes) -> Enrolment:
    from agent import enrolment

    return enrolment.parse_answer(data)


def _refusal(data: bytes) -> object:
    from agent import enrolment

    meant = enrolment.refusal(400, data)
    if isinstance(meant, EnrolmentRefused):  # what stands for an answer that cannot be read
        raise meant
    return meant


def _problem() -> bytes:
    return msgspec.json.encode({"code": "access.denied", "detail": "x", "hint": "y"})


def _enrolment_body(data: bytes) -> EnrolmentRequest:
    from control_plane.api import enrolment

    return enrolment.parse(data)


def _enrolment_request() -> list[bytes]:
    request = EnrolmentRequest(
        token="enrol_x_y", csr="PEM", device=DEVICE, agent_version="1", inventory={"cores": 2}
    )
    return [msgspec.json.encode(request)]


PARSERS: Final = (
    *(_message(kind) for kind in examples()),
    _envelope(messages.Assignment),
    _envelope(messages.Report),
    _signed(messages.Assignment),
    _signed(messages.Report),
    Parser(
        name="sealed segment",
        parse=lambda data: codec.unseal(messages.Segment, KEY, TOPIC, data),
        make_seeds=lambda: [codec.seal(KEY, TOPIC, segments.predictions([1], [0]))],
    ),
    Parser(
        name="segment under a right seal",
        parse=_unseal_any,
        encode=codec.encode,
        make_seeds=lambda: [codec.encode(each) for each in examples()[messages.Segment]],
        form=Form.MSGPACK,
    ),
    _topic("a device", topics.parse_up, *(topics.up(DEVICE, kind) for kind in topics.Up)),
    _topic(
        "the service",
        lambda topic: topics.parse_down(topic, DEVICE),
        *(topics.down(DEVICE, kind) for kind in topics.Down),
    ),
    _topic("a chunk", topics.parse_chunk, topics.chunk(DIGEST)),
    _topic(
        "a repository file", topics.parse_repository_file, topics.repository_file("1.root.json")
    ),
    Parser(
        name="name of a repository file",
        parse=lambda data: topics.repository_file(text_of(data)),
        make_seeds=lambda: [b"1.root.json", b"director/keys.json"],
    ),
    Parser(
        name="varints",
        parse=lambda data: varints.decode(data, 0, 4, "the numbers"),
        make_seeds=lambda: [varints.encode(np.array([0, 127, 2**40, 2**63 - 1]))],
    ),
    Parser(
        name="compressed bytes",
        parse=lambda data: compression.inflate(data, 1_000, "the bytes"),
        encode=compression.deflate,
        make_seeds=lambda: [compression.deflate(b"abc" * 100)],
    ),
    Parser(
        name="predictions",
        parse=columns.decode_predictions,
        encode=columns.encode_predictions,
        make_seeds=lambda: [_predictions_body(), _more_predictions_body()],
    ),
    Parser(
        name="predictions, decompressed",
        parse=_compressed(columns.decode_predictions),
        encode=lambda rows: _plain(columns.encode_predictions(rows)),
        make_seeds=lambda: [_plain(_predictions_body())],
    ),
    Parser(
        name="labels",
        parse=columns.decode_labels,
        encode=columns.encode_labels,
        make_seeds=lambda: [_labels_body(), _feedback_body()],
    ),
    Parser(
        name="labels, decompressed",
        parse=_compressed(columns.decode_labels),
        encode=lambda rows: _plain(columns.encode_labels(rows)),
        make_seeds=lambda: [_plain(_labels_body())],
    ),
    Parser(
        name="predictions of format 2, decompressed",
        parse=_compressed(columns.decode_predictions, columns.VERSION_MORE),
        make_seeds=lambda: [_plain(_more_predictions_body())],
    ),
    Parser(
        name="labels of format 2, decompressed",
        parse=_compressed(columns.decode_labels, columns.VERSION_MORE),
        make_seeds=lambda: [_plain(_feedback_body())],
    ),
    Parser(
        name="samples",
        parse=samples.decode_samples,
        encode=samples.encode_samples,
        make_seeds=lambda: [_samples_body()],
    ),
    Parser(
        name="samples, decompressed",
        parse=_compressed(samples.decode_samples),
        encode=lambda rows: _plain(samples.encode_samples(rows)),
        make_seeds=lambda: [_plain(_samples_body())],
    ),
    Parser(
        name="baseline",
        parse=sketch_codec.parse_baseline,
        encode=sketch_codec.encode_baseline,
        make_seeds=lambda: [sketch_codec.encode_baseline(baseline())],
    ),
    Parser(
        name="baseline, decompressed",
        parse=_compressed(sketch_codec.parse_baseline),
        encode=lambda found: msgspec.msgpack.encode(found, order="deterministic"),
        make_seeds=lambda: [msgspec.msgpack.encode(baseline(), order="deterministic")],
        form=Form.MSGPACK,
    ),
    Parser(
        name="sketch",
        parse=lambda data: sketch_codec.parse_sketch(data, baseline()),
        encode=sketch_codec.encode_sketch,
        make_seeds=lambda: [_sketch_body()],
    ),
    Parser(
        name="sketch, decompressed",
        parse=_parse_sketch_plain,
        make_seeds=lambda: [compression.inflate(_sketch_body()[9:], 2**20, "a seed")],
    ),
    Parser(
        name="watch",
        parse=lambda data: watch_codec.parse_watch(data, baseline()),
        encode=watch_codec.encode_watch,
        make_seeds=_watches,
        cost=2,
    ),
    Parser(
        name="watch, its fields",
        parse=lambda data: watch_codec.parse_watch(b"\1" + data, baseline()),
        make_seeds=lambda: [each[1:] for each in _watches()],
        form=Form.MSGPACK,
        cost=2,
    ),
    Parser(
        name="enrolment body",
        parse=_enrolment_body,
        encode=msgspec.json.encode,
        make_seeds=_enrolment_request,
        form=Form.JSON,
    ),
    Parser(
        name="refusal of the server",
        parse=_refusal,
        make_seeds=lambda: [_problem()],
        form=Form.JSON,
    ),
    Parser(
        name="enrolment answer",
        parse=_enrolment_answer,
        encode=msgspec.json.encode,
        make_seeds=lambda: [msgspec.json.encode(_enrolment())],
        form=Form.JSON,
    ),
)
