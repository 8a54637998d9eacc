"""The bodies of segments and baselines, byte for byte as devices in the field write them.

These bytes never change: a new format gets a new version number and golden bytes of its own. What
is compared is what stands inside the zlib stream, because another zlib may compress otherwise.
"""

from __future__ import annotations

import zlib

import msgspec
import numpy as np

from firmware_bundles.sketches import codec, watch_codec
from firmware_bundles.sketches.baseline import Baseline, Column, ColumnKind, Value
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire import columns, samples
from firmware_bundles.wire.told_values import Values

PREDICTIONS = columns.Predictions(
    sequence=np.array([7, 8, 300]),
    time_ms=np.array([0, 20, 1020]),
    classes=np.array([3, -1, 500]),
    latency_us=np.array([41, 40, 70_000]),
    scores=np.array([[255, 0], [1, 254], [128, 127]], dtype=np.uint8),
)
LABELS = columns.Labels(
    sequence=np.array([1, 2]),
    time_ms=np.array([0, 5]),
    incarnations=("0123456789abcdef", "00000000000000ff"),
    incarnation=np.array([1, 0]),
    prediction=np.array([8, 2**40]),
    labels=np.array([4, 0]),
    predicted=np.array([4, -1]),
)
FACTS = Baseline(
    rows=2,
    stride=1,
    window_rows=90,
    features=1,
    labels=("no", "yes"),
    columns=(
        Column(
            name="x[0]",
            kind=ColumnKind.FEATURE,
            edges=(0.0, 0.5, 1.5),
            scale=16384.0,
            counts=(0, 0, 1, 1, 0),
            total=20480,
            total2=285212672,
            minimum=0.25,
            maximum=1.0,
        ),
        Column(
            name="confidence",
            kind=ColumnKind.CONFIDENCE,
            edges=(0.5, 1.0),
            scale=32768.0,
            counts=(0, 0, 2, 0),
            total=40960,
            total2=872415232,
            minimum=0.5,
            maximum=0.75,
        ),
        Column(
            name="class",
            kind=ColumnKind.CLASS,
            edges=(-0.5, 0.5, 1.5),
            scale=16384.0,
            counts=(0, 0, 1, 1, 0),
            total=16384,
            total2=268435456,
            minimum=0.0,
            maximum=1.0,
        ),
    ),
)

MORE_PREDICTIONS = PREDICTIONS._replace(segments=np.array([0, 2, 63]))
FEEDBACK = LABELS._replace(
    labels=np.array([4, -1]),
    predicted=np.array([-1, -1]),
    segments=np.array([1, -1]),
    values=Values(
        names=("revenue", "\u00e9"),
        exponents=(8, -1),
        row=np.array([0, 0, 1]),
        name=np.array([0, 1, 0]),
        quanta=np.array([-300, 5, 0]),
    ),
)

PREDICTIONS_BYTES = bytes.fromhex(
    "01789c6366626758ccc420f2825d53e3c32216e6ff5f18fe33fe676c60f8570f0066d9098f"
)
LABELS_BYTES = bytes.fromhex(
    "01789c63626254764def5c7df63d0304fc676460606564e06800010516a008cb7f86ff00b2fb0979"
)
MORE_PREDICTIONS_BYTES = bytes.fromhex(
    "02789c6366626758ccc420f2825d53e3c32216e6ff5f18fe33fe676c60f857cfc0640f0083c909d0"
)
FEEDBACK_BYTES = bytes.fromhex(
    "02789c636262626654764def5c7df63d0304fc672f4a2d4bcd2b4ded603abcb29e918181959181a301041418"
    "181881f03a0b1703cb7f86ff20c0f81f004d5714d3"
)
BASELINE_BYTES = bytes.fromhex(
    "01789c9dd03d4ec330140770a727808ba016b1b747600621649cd762e18f2acf51ca0d101b2dec154d9c"
    "080ec101221047c8c8d8b123214ea2a4ddf0f47f4f7ed6cfefc122bb054937a393611ce80807164dc07d"
    "f0de23ae7c1d5dff352fb229501306809e15f406042e5f95dedc03a64c8b502a5c3dc68a4a881797c3ab"
    "f8ae9c4ceb896cae911bae1549c09f01ae72529f7c5c3461e742828c0ac827dfaeb44c87cae00b219e47"
    "12a30d159fe7c456e1f4ebb8bc914aaeb80c653eae47524917aeb1750dc77a635a4dcb4f290615ae53ef"
    "fb961dd6b6cf2a7aac6742068d6addaace7aaa625ff5d355254c50c40ae4e2e1ae3e5acb3f7635695547"
    "5d55b3ff835d65083309e52b4feb5f29f5becf"
)
SKETCH_BYTES = bytes.fromhex(
    "01894db4440110ce1b789c63666400410626086e3820d4d0c0d9d0c0d4d0d0d011082416b0038906a064"
    "831d0303833d0318083802f9f6200c0089f00cb7"
)

DECLARING = msgspec.structs.replace(
    FACTS,
    segments=("", "night"),
    cycle_s=86_400.0,
    right=(0, 0, 1, 0),
    values=(Value(name="revenue", scale=256.0),),
)
DECLARING_BYTES = bytes.fromhex(
    "01789c9dd0bd4ec330100060a74f001b4f810a626f1e8119842ae35e530bff5439a73f2b234cb4b057347f82"
    "87e00122501f212363172446d238a9d276c3d3f9e43b7f778f31b20148ba3c3b6d87be1e632b46e3f31e38ef"
    "63ae7a7adcdd24afd23e5013f8804e2ce82d089cbd2abd9c02264c8b402a9c3f848a4a0827d7ed9bf0aea84c"
    "aa8a74a8911bae1589a0e701ce33529dac93d7c1af0d22645440e6aeec35663a50065f08711c12196da8f8bc"
    "2471199c7f1d172f12c9159781cc3a554922e9c426d63661596f4cab7e31946250e21af77ddfacc15aefb2f2"
    "1dd63321ad5ab5d8aa2e7654f9beeabba98a98a08825c88687bbfad85afeb12b77ab3a6aaaeafd1fec2a45f0"
    "24145d668b48716f6012366502ba98b93f27f6537f932e2677483ca222007cba2f47497c18810aa0560d6dc7"
    "3f017ed8e2"
)
SKETCH_2_BYTES = bytes.fromhex(
    "02da6c8058b7956eae789c2d87cd0d40601404f7ad206ee22e51898f1274344765e884d23c3f3b9949b60a3d"
    "c89f5c03746060df32479b2164b98eb0696094982515bdebd7fce5f794a6e506bdce1008"
)
# What the control plane keeps of a device, in its own database.
WATCH_BYTES = bytes.fromhex(
    "0196c43e01894db4440110ce1b789c63666400410626086e3820d4d0c0d9d0c0d4d0d0d011082416b0038906"
    "a064831d0303833d0318083802f9f6200c0089f00cb7cb3ff0000000000000cb4004000000000000c43e0189"
    "4db4440110ce1b789c63666400410626086e3820d4d0c0d9d0c0d4d0d0d011082416b0038906a064831d0303"
    "833d0318083802f9f6200c0089f00cb7c422789c6360400617ec21f40328fd024a7f80d25fa0f40f28fd074a"
    "333800000e50086ac40f0032649601c801fa01ac02de029003"
)


def sketch() -> Sketch:
    """Three rows: one in range, one above, one missing."""
    counted = Sketch(FACTS)
    features = np.array([[0.25], [9.0], [np.nan]], dtype=np.float32)
    counted.update(features, np.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=np.float32))
    return counted


def test_predictions_have_their_bytes() -> None:
    """A predictions body of version 1 is read and written as ever."""
    read = columns.decode_predictions(PREDICTIONS_BYTES)
    for name in PREDICTIONS._fields:
        assert np.array_equal(getattr(read, name), getattr(PREDICTIONS, name))
    _same(columns.encode_predictions(PREDICTIONS), PREDICTIONS_BYTES)


def test_labels_have_their_bytes() -> None:
    """A labels body of version 1 is read and written as ever."""
    read = columns.decode_labels(LABELS_BYTES)
    assert read.incarnations == LABELS.incarnations
    assert read.prediction.tolist() == LABELS.prediction.tolist()
    assert read.predicted.tolist() == LABELS.predicted.tolist()
    _same(columns.encode_labels(LABELS), LABELS_BYTES)


def test_predictions_of_format_2_have_their_bytes() -> None:
    """The segment of each row is read and written as ever."""
    read = columns.decode_predictions(MORE_PREDICTIONS_BYTES)
    assert read.places.tolist() == [0, 2, 63]
    _same(columns.encode_predictions(MORE_PREDICTIONS), MORE_PREDICTIONS_BYTES)


def test_labels_of_format_2_have_their_bytes() -> None:
    """Segments, business values, and a row without a label are read and written as ever."""
    read = columns.decode_labels(FEEDBACK_BYTES)
    assert (read.labels.tolist(), read.places.tolist()) == ([4, -1], [1, -1])
    assert (read.values.names, read.values.exponents) == (("revenue", "\u00e9"), (8, -1))
    assert read.values.row.tolist() == [0, 0, 1]
    assert read.values.name.tolist() == [0, 1, 0]
    assert read.values.quanta.tolist() == [-300, 5, 0]
    _same(columns.encode_labels(FEEDBACK), FEEDBACK_BYTES)


def test_a_baseline_has_its_bytes() -> None:
    """A baseline of version 1 is read and written as ever."""
    assert codec.parse_baseline(BASELINE_BYTES) == FACTS
    _same(codec.encode_baseline(FACTS), BASELINE_BYTES)


def test_a_sketch_has_its_bytes() -> None:
    """A sketch of version 1 is read and written as ever, and names its baseline in its head."""
    read = codec.parse_sketch(SKETCH_BYTES, FACTS)
    assert read.rows == 3
    assert read.counts.tolist() == sketch().counts.tolist()
    _same(codec.encode_sketch(sketch()), SKETCH_BYTES, head=9)


def test_a_baseline_that_declares_more_has_its_bytes() -> None:
    """Segments, cycle, calibration table and business values are read and written as ever."""
    assert codec.parse_baseline(DECLARING_BYTES) == DECLARING
    _same(codec.encode_baseline(DECLARING), DECLARING_BYTES)


def test_a_sketch_of_format_2_has_its_bytes() -> None:
    """Answers by segment, outcomes and business values are read and written as ever."""
    read = codec.parse_sketch(SKETCH_2_BYTES, DECLARING)
    assert read.answers.tolist() == [[0, 0, 1], [0, 2, 0]]
    assert read.outcomes.table()[1, 0].tolist() == [2, 0, 0]
    assert read.outcomes.table()[0, 1].tolist() == [0, 0, 1]
    assert (read.values.n.tolist(), read.values.total.tolist()) == ([2], [384])
    _same(codec.encode_sketch(read), SKETCH_2_BYTES, head=9)


def test_a_watch_has_its_bytes() -> None:
    """Gathered windows, reference and evidence of version 1 are read and written as ever."""
    read = watch_codec.parse_watch(WATCH_BYTES, FACTS)
    assert read.gathered is not None
    assert read.reference is not None
    assert read.evidence is not None
    assert (read.gathered.started, read.gathered.ended) == (1.0, 2.5)
    assert read.gathered.sketch.counts.tolist() == sketch().counts.tolist()
    assert read.reference.sketch.counts.tolist() == sketch().counts.tolist()
    assert read.evidence.scores.tolist() == [at / 4 for at in range(9)]
    assert read.evidence.ages.tolist() == [50 * at for at in range(9)]
    written = watch_codec.encode_watch(read)
    assert written[0] == WATCH_BYTES[0] == 1
    for new, old in zip(*map(_fields, (written, WATCH_BYTES)), strict=True):
        assert _plain(new) == _plain(old)


def _fields(watch: bytes) -> list[bytes | float]:
    return msgspec.msgpack.decode(watch[1:], type=list[bytes | float])


def _plain(part: bytes | float) -> object:
    """A field; of one with a zlib stream in it its head, and what stands inside the stream."""
    if not isinstance(part, bytes) or b"\x78\x9c" not in part:
        return part
    head, _, _ = part.partition(b"\x78\x9c")
    return head, zlib.decompress(part[len(head) :])


def _same(written: bytes, golden: bytes, head: int = 1) -> None:
    assert written[:head] == golden[:head]
    assert zlib.decompress(written[head:]) == zlib.decompress(golden[head:])


def test_samples() -> None:
    """Captured inputs with their answers; values are as they were, bit for bit."""
    found = samples.Samples(
        sequence=np.array([7, 8, 300]),
        time_ms=np.array([0, 20, 1020]),
        reasons=np.array([1, 6, 8], dtype=np.uint8),
        classes=np.array([3, -1, 500]),
        spans=(samples.Span(0, 1), samples.Span(200, 1)),
        scores=np.array([[1.0], [0.5], [0.25]], dtype=np.float32),
        values=np.array([[0.0, -1.5], [2.0, 0.0], [np.inf, 3.0]], dtype=np.float32),
    )
    body = samples.encode_samples(found)
    assert body[0] == 1
    assert zlib.decompress(body[1:]) == bytes.fromhex(
        "03 01 02 00 01 c8 01 01 07 00 a3 02 00 14 e8 07 01 06 08 03 ff f4 00 ff "
        "01 00 00 80 3f 00 00 00 3f 00 00 80 3e 00 00 00 00 00 00 00 40 00 00 80 "
        "7f 00 00 c0 bf 00 00 00 00 00 00 40 40 "
    )
    again = samples.decode_samples(body)
    assert np.array_equal(again.values, found.values)
