"""Segments of the traffic and feedback on a real worker, up to what leaves the device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.store.buffer import Buffer
from control_plane.store.database import Database
from control_plane.store.outcomes import Asked, Outcomes
from control_plane.store.telemetry import Telemetry
from control_plane.telemetry.ingest import Ingest
from firmware_bundles.sketches import codec as sketches
from firmware_bundles.wire import codec, columns
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import fleet_rows, segments, workers
from support.bundles import Sample, images
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"
FEEDBACK = "/v2/models/digits/feedback"
SAMPLE = Sample("v1").watch(window_rows=30).declare(("", "night", "day"), ("revenue", "clicks"))


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device whose model declares segments and business values."""
    state_dir = tmp_path_factory.mktemp("state")
    SAMPLE.put(state_dir, "A")
    with (
        workers.device(state_dir) as made,
        made.running(segment_age_s=0.1, flush_ms=20, window_age_s=1),
    ):
        yield made


@pytest.fixture
def client(device: Device) -> Iterator[httpx.Client]:
    """A client of its endpoint."""
    with device.client() as made:
        yield made


def ask(client: httpx.Client, segment: str | None) -> str:
    """Ask once; return the prediction's id."""
    parameters = {} if segment is None else {"parameters": {"segment": segment}}
    answer = client.post(INFER, json=infer(images(1)[0]) | parameters)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["parameters"]["prediction_id"])


def sealed(device: Device, kind: SegmentKind) -> list[Segment]:
    """The segments of a kind in the buffer."""
    store = Buffer(device.state_dir / "spool" / "buffer.db")
    found = [codec.decode(Segment, stored.body) for stored in store.waiting(10_000)]
    store.close()
    return [each for each in found if each.key.kind is kind]


def test_segments_and_values_reach_what_leaves_the_device(
    device: Device, client: httpx.Client
) -> None:
    """A request's segment stands in its row and window; feedback joins it, and counts once."""
    ids = [ask(client, segment) for segment in ("day", None, "night", "day")]
    both = {"id": ids[0], "label": "7", "values": {"revenue": 2.5, "clicks": -3}}
    said = [both, {"id": ids[1], "values": {"clicks": 1}}, both, {"id": ids[0], "label": 1}]
    recorded = [client.post(FEEDBACK, json=each).json()["recorded"] for each in said]
    assert recorded == [True, True, False, False]
    numbers = [int(each.partition("-")[2]) for each in ids]
    workers.wait_until(lambda: bool(sealed(device, SegmentKind.WINDOW)))
    places: dict[int, int] = {}
    for segment in sealed(device, SegmentKind.PREDICTIONS):
        rows = columns.decode_predictions(segment.body)
        places |= dict(zip(rows.sequence.tolist(), rows.places.tolist(), strict=True))
    assert [places[number] for number in numbers] == [2, 0, 1, 2]
    told = _told(device)
    assert told[numbers[0]] == (7, 2, {"revenue": 2.5 * 256, "clicks": -3 * 256})
    assert told[numbers[1]] == (-1, 0, {"clicks": 256})
    facts = sketches.parse_baseline(SAMPLE.files["baseline.bin"])
    windows = [
        sketches.parse_sketch(each.body, facts) for each in sealed(device, SegmentKind.WINDOW)
    ]
    by_segment = sum(window.answers.sum(axis=1) for window in windows).tolist()
    assert by_segment == [places_of(places, 0), places_of(places, 1), places_of(places, 2)]


def places_of(places: dict[int, int], wanted: int) -> int:
    """How many predictions named this segment."""
    return sum(place == wanted for place in places.values())


def _told(device: Device) -> dict[int, tuple[int, int, dict[str, int]]]:
    found: dict[int, tuple[int, int, dict[str, int]]] = {}
    for segment in sealed(device, SegmentKind.LABELS):
        rows = columns.decode_labels(segment.body)
        for at, number in enumerate(rows.prediction.tolist()):
            assert number not in found
            brought = {
                rows.values.names[name]: quanta
                for row, name, quanta in zip(*(e.tolist() for e in rows.values[2:]), strict=True)
                if row == at
            }
            found[number] = int(rows.labels[at]), int(rows.places[at]), brought
    return found


def test_an_unknown_segment_is_refused(client: httpx.Client) -> None:
    """The list is closed: another name is an error that lists it, and nothing is answered."""
    answer = client.post(INFER, json=infer(images(1)[0]) | {"parameters": {"segment": "dusk"}})
    assert answer.status_code == 400
    assert "segment 'dusk' is unknown; expected one of 'night', 'day'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"values": {"profit": 1}}, "value 'profit' is not declared"),
        ({"values": {"revenue": "much"}}, "the body is not feedback"),
        ({"values": {}}, "the feedback says nothing"),
    ],
)
def test_undeclared_values_are_refused(
    client: httpx.Client, said: dict[str, Any], sentence: str
) -> None:
    """A name that the baseline does not declare, no number, or nothing at all."""
    answer = client.post(FEEDBACK, json={"id": f"{'0' * 16}-1"} | said)
    assert (answer.status_code, sentence in answer.json()["error"]) == (400, True), answer.text


def test_what_a_device_was_told_is_counted_once_at_the_control_plane(
    device: Device, client: httpx.Client, tmp_path: Path
) -> None:
    """From the request to the sums by segment, however often the segments are delivered."""
    prediction = ask(client, "night")
    answer = {"id": prediction, "label": "3", "values": {"revenue": 4.25}}
    assert client.post(FEEDBACK, json=answer).json()["recorded"]
    number = int(prediction.partition("-")[2])
    workers.wait_until(lambda: number in _told(device))
    database = Database.open(f"sqlite:///{tmp_path / 'shoal.db'}")
    fleet_rows.enrol(database, "ant")
    telemetry = Telemetry(database)
    ingest = Ingest(telemetry, lambda _: fleet_rows.SECRET, lambda *_: None, lambda: 100.0)
    answered = sealed(device, SegmentKind.PREDICTIONS)
    sent = answered + sealed(device, SegmentKind.LABELS)
    for batch in (sent, sent[::-1]):
        payloads = [segments.seal("ant", fleet_rows.SECRET, each) for each in batch]
        ingest.ingest([("ant", payload) for payload in payloads])
    stored, everything = Outcomes(database), Asked(None, None, 0.0)
    told = _told(device)
    labelled = sum(label != -1 for label, _, _ in told.values())
    assert sum(row.rows for row in stored.outcomes(everything)) == labelled
    (night,) = [e for e in stored.values(everything) if (e.name, e.segment) == ("revenue", 1)]
    assert (night.n, night.total, night.exponent) == (1, 4.25 * 256, 8)
    (row,) = telemetry.predictions()
    assert row.received == sum(each.rows for each in answered)
    database.close()
