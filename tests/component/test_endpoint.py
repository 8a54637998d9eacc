"""The endpoint of a real worker: every path, every refusal."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from agent.deployment import slots
from agent.inference.supervisor import INFERENCE_SOCKET
from agent.store.buffer import Buffer
from firmware_bundles.manifest import Classification
from firmware_bundles.wire import codec, columns
from firmware_bundles.wire.messages import Segment, SegmentKind
from support import workers
from support.bundles import SAMPLES, Sample, images
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"
FEEDBACK = "/v2/models/digits/feedback"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that serves digits v1, and has a family that nothing was deployed to."""
    state_dir = tmp_path_factory.mktemp("state")
    Sample("v1").put(state_dir, "A")
    (state_dir / "slots" / "empty").mkdir()
    with workers.device(state_dir) as made, made.running(segment_age_s=0.1, flush_ms=20):
        yield made


@pytest.fixture
def client(device: Device) -> Iterator[httpx.Client]:
    """A client of its endpoint."""
    with device.client() as made:
        yield made


def test_a_prediction_is_answered_with_class_and_identity(client: httpx.Client) -> None:
    """Real values go in; scores, the label's name, version and the prediction's id come out."""
    answer = client.post(INFER, json=infer(images(1)[0]) | {"id": "mine"}).json()
    probs, named = answer["outputs"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("digits", "v1", "mine")
    assert (probs["name"], probs["datatype"], probs["shape"]) == ("probs", "FP32", [1, 10])
    assert named["data"] == [str(int(np.argmax(probs["data"])))]
    assert (named["name"], named["datatype"], named["shape"]) == ("class", "BYTES", [1])
    assert answer["parameters"]["prediction_id"].count("-") == 1


def test_each_output_comes_as_it_is_asked_for(client: httpx.Client) -> None:
    """Real or stored values, as JSON or as bytes, whatever the input was; else as the input."""
    body = infer(images(1)[0])

    def probs(**parameters: object) -> dict[str, Any]:
        asked = {"name": "probs", "parameters": parameters} if parameters else {"name": "probs"}
        (found,) = client.post(INFER, json=body | {"outputs": [asked]}).json()["outputs"]
        told: dict[str, Any] = found
        return told

    real, stored = probs(datatype="FP32"), probs(datatype="INT8")
    assert probs() == real
    assert (real["datatype"], stored["datatype"]) == ("FP32", "INT8")
    assert real["data"] == pytest.approx([(each + 128) / 256 for each in stored["data"]])
    given = body["inputs"][0] | {"datatype": "INT8", "data": [0] * 64}
    body = {"inputs": [given]}
    assert (probs()["datatype"], probs(datatype="FP32")["datatype"]) == ("INT8", "FP32")
    asked = [{"name": "probs", "parameters": {"datatype": "INT8", "binary_data": True}}]
    answer = client.post(INFER, json=body | {"outputs": asked})
    head = int(answer.headers["inference-header-content-length"])
    assert np.frombuffer(answer.content[head:], np.int8).tolist() == probs()["data"]


@pytest.mark.parametrize(
    ("name", "datatype", "sentence"),
    [
        ("probs", "UINT8", "output 'probs' cannot be given as 'UINT8'; expected FP32 or INT8"),
        ("class", "FP32", "output 'class' cannot be given as 'FP32'; expected BYTES"),
    ],
)
def test_an_output_is_refused_in_a_type_that_it_has_not(
    client: httpx.Client, name: str, datatype: str, sentence: str
) -> None:
    """The refusal names those that it has."""
    asked = {"outputs": [{"name": name, "parameters": {"datatype": datatype}}]}
    answer = client.post(INFER, json=infer(images(1)[0]) | asked)
    assert (answer.status_code, answer.json()["error"]) == (400, sentence)


@pytest.mark.parametrize("is_binary", [False, True])
def test_strings_are_refused_as_input(client: httpx.Client, *, is_binary: bool) -> None:
    """No model here takes BYTES, as the metadata say; as text and as binary data."""
    given: dict[str, Any] = {"name": "image", "shape": [1], "datatype": "BYTES"}
    given |= {"parameters": {"binary_data_size": 9}} if is_binary else {"data": ["a word"]}
    head = json.dumps({"inputs": [given]}).encode()
    blob = b"\x05\0\0\0hello" if is_binary else b""
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = client.post(INFER, content=head + blob, headers=headers)
    assert answer.status_code == 400
    assert "input 'image' has datatype 'BYTES'; expected FP32 or INT8" in answer.json()["error"]


def test_the_model_is_as_good_as_its_owner_measured(client: httpx.Client) -> None:
    """On held-out rows the endpoint is right as often as the owner's own answers are."""
    held_out = np.load(SAMPLES / "v1" / "heldout.npz")
    count = 150
    right = 0
    for image, label in zip(held_out["image"][:count], held_out["label"], strict=False):
        outputs = client.post(INFER, json=infer(image)).json()["outputs"]
        right += outputs[1]["data"] == [str(label)]
    wanted = (held_out["probs"].argmax(axis=1) == held_out["label"])[:count].sum()
    assert abs(right - wanted) <= 2


def test_stored_values_are_answered_with_stored_values(client: httpx.Client) -> None:
    """A client that speaks the model's own type is answered in it, with the same class."""
    image = images(3)[2]
    real = client.post(INFER, json=infer(image)).json()
    steps = (np.rint(image.ravel() * 255) - 128).astype(int).tolist()
    raw = client.post(INFER, json=infer(image, datatype="INT8", data=steps)).json()
    assert raw["outputs"][0]["datatype"] == "INT8"
    assert raw["outputs"][1] == real["outputs"][1]
    again = [(step + 128) * 0.00390625 for step in raw["outputs"][0]["data"]]
    assert again == pytest.approx(real["outputs"][0]["data"])


def test_outputs_can_be_chosen(client: httpx.Client) -> None:
    """Only the outputs that were asked for come back."""
    asked = infer(images(1)[0]) | {"outputs": [{"name": "class"}]}
    answer = client.post(INFER, json=asked).json()
    assert [output["name"] for output in answer["outputs"]] == ["class"]


def test_the_model_tells_its_tensors(client: httpx.Client) -> None:
    """Metadata name the preferred datatypes, shapes, and how values are stored."""
    for path in ("/v2/models/digits", "/v2/models/digits/versions/v1"):
        facts = client.get(path).json()
        (image,) = facts["inputs"]
        assert facts["versions"] == ["v1"]
        assert (image["name"], image["datatype"], image["shape"]) == ("image", "FP32", [1, 8, 8, 1])
        assert image["parameters"]["stored_as"]["datatype"] == "INT8"
        assert [output["name"] for output in facts["outputs"]] == ["probs", "class"]


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v2", 200, None),
        ("GET", "/v2/health/live", 200, None),
        ("GET", "/v2/health/ready", 503, "model 'empty' is not ready: no slot was chosen yet"),
        ("GET", "/v2/models/digits/ready", 200, None),
        ("GET", "/v2/models/digits/versions/v1/ready", 200, None),
        (
            "GET",
            "/v2/models/digits/versions/v9",
            404,
            "model 'digits' has no version 'v9' here; it serves 'v1'",
        ),
        (
            "POST",
            "/v2/models/digits/versions/v9/infer",
            404,
            "model 'digits' has no version 'v9' here; it serves 'v1'",
        ),
        (
            "POST",
            "/v2/models/nothing/infer",
            404,
            "model 'nothing' is unknown; this device has: digits, empty",
        ),
        (
            "POST",
            "/v2/models/empty/infer",
            503,
            "model 'empty' is not ready: no slot was chosen yet",
        ),
        ("GET", INFER, 405, "GET is not possible here; use POST"),
        ("POST", "/v2/models/digits", 405, "POST is not possible here; use GET"),
        ("DELETE", "/v2", 405, "DELETE is not possible here; use GET"),
        ("GET", "/", 404, "there is nothing at '/'"),
        (
            "GET",
            "/v2/models/digits/nothing",
            404,
            "there is nothing at '/v2/models/digits/nothing'",
        ),
    ],
)
def test_each_path_has_its_answer(
    client: httpx.Client, method: str, path: str, status: int, sentence: str | None
) -> None:
    """Paths, methods and models that are not there are told apart, each with a sentence."""
    answer = client.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.json().get("error") == sentence


def test_a_wrong_input_is_told_by_name(client: httpx.Client) -> None:
    """A wrong shape is 400, names the tensor and what was expected; nothing is recorded of it."""
    answer = client.post(INFER, json=infer(images(1)[0], shape=[1, 64]))
    assert answer.status_code == 400
    assert answer.json() == {"error": "input 'image' has shape [1, 64]; expected [1, 8, 8, 1]"}
    answer = client.post(INFER, content=b"{")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the body is not an inference request: ")


def test_a_body_that_is_too_large_is_refused(device: Device, client: httpx.Client) -> None:
    """By its announced length, without reading it; and in pieces, when it was not announced."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(device.run_dir / INFERENCE_SOCKET))
        line.sendall(b"POST %s HTTP/1.1\r\nhost: d\r\n" % INFER.encode())
        line.sendall(b"content-length: 999999999\r\n\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 413 ")
    pieces = (bytes(1024 * 1024) for _ in range(40))
    with suppress(httpx.TransportError):  # the answer may overtake the body
        assert client.post(INFER, content=pieces).status_code == 413
    assert client.get("/v2/health/live").status_code == 200


def test_feedback_is_joined_with_the_answer(device: Device, client: httpx.Client) -> None:
    """A label by name or index is recorded once, beside the class that was answered."""
    answers = [client.post(INFER, json=infer(image)).json() for image in images(3)]
    ids = [answer["parameters"]["prediction_id"] for answer in answers]
    named = [answer["outputs"][1]["data"][0] for answer in answers]
    told = [client.post(FEEDBACK, json={"id": ids[0], "label": "7"})]
    told += [client.post(FEEDBACK, json={"id": each, "label": 3}) for each in ids[1:]]
    assert [answer.json()["recorded"] for answer in told] == [True] * 3
    assert client.post(FEEDBACK, json={"id": ids[0], "label": "7"}).json()["recorded"] is False
    sequences = [int(each.partition("-")[2]) for each in ids]
    expected = {
        (sequence, label, int(predicted))
        for sequence, label, predicted in zip(sequences, (7, 3, 3), named, strict=True)
    }
    workers.wait_until(lambda: expected <= _labels(device))


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"id": "x", "label": "1"}, 400, "'x' is not the id of a prediction"),
        ({"id": "{inc}-999999", "label": "1"}, 404, "was not made here"),
        ({"id": "{inc}-1", "label": "cat"}, 400, "label 'cat' is unknown; expected one of 0, 1"),
        ({"id": "{inc}-1", "label": 10}, 400, "an index from 0 to 9"),
        ({"id": f"{'0' * 16}-1"}, 400, "the feedback says nothing: give 'label', 'values' or both"),
        ({"label": 1}, 400, "the body is not feedback"),
        ({"id": f"{'0' * 16}-1", "values": {"revenue": 1}}, 400, "this model declares none"),
        ({"id": f"{'0' * 16}-{2**53}", "label": 1}, 400, "is not the id of a prediction"),
    ],
)
def test_wrong_feedback_is_refused(
    device: Device, client: httpx.Client, body: dict[str, object], status: int, sentence: str
) -> None:
    """Feedback about nothing, or with a label that is none, is told apart."""
    incarnation = device.status().incarnation
    body = {
        key: value.replace("{inc}", incarnation) if isinstance(value, str) else value
        for key, value in body.items()
    }
    answer = client.post(FEEDBACK, json=body)
    assert (answer.status_code, sentence in answer.json()["error"]) == (status, True), answer.text


def test_the_manifest_says_how_scores_become_classes(tmp_path: Path) -> None:
    """Top-k names with their scores, the best first, none below the threshold; metadata tell it."""
    sample = Sample("v1")
    sample.classification = Classification(
        scores="probs", activation="softmax", threshold=0.2, top_k=3
    )
    sample.put(tmp_path, "A")
    with workers.device(tmp_path) as device, device.running(), device.client() as client:
        facts = client.get("/v2/models/digits").json()["outputs"]
        probs, named, scored = client.post(INFER, json=infer(images(1)[0])).json()["outputs"]
        asked = infer(images(1)[0]) | {"outputs": [{"name": "class_score"}]}
        only = client.post(INFER, json=asked).json()["outputs"]
    assert facts[1:] == [
        {"name": "class", "datatype": "BYTES", "shape": [3]},
        {"name": "class_score", "datatype": "FP32", "shape": [3]},
    ]
    raised = np.exp(probs["data"])
    scores = raised / raised.sum()
    assert named["data"] == [str(int(scores.argmax())), "", ""]
    assert scored["data"] == pytest.approx([scores.max(), 0, 0])
    assert only == [scored]


def test_a_broken_slot_gives_way_to_the_other(tmp_path: Path) -> None:
    """A worker that starts on a damaged slot serves the other one, and says why."""
    Sample("v1").put(tmp_path, "A")
    Sample("v2").put(tmp_path, "B")
    model = slots.slot(tmp_path / "slots", "digits", "B").directory / "model.tflite"
    data = bytearray(model.read_bytes())
    data[100] ^= 1
    model.write_bytes(data)
    with workers.device(tmp_path) as device, device.running(), device.client() as client:
        answer = client.post(INFER, json=infer(images(1)[0])).json()
        assert answer["model_version"] == "v1"


def _labels(device: Device) -> set[tuple[int, int, int]]:
    store = Buffer(device.state_dir / "spool" / "buffer.db")
    found: set[tuple[int, int, int]] = set()
    for stored in store.waiting(10_000):
        segment = codec.decode(Segment, stored.body)
        if segment.key.kind is SegmentKind.LABELS:
            rows = columns.decode_labels(segment.body)
            found |= set(
                zip(
                    rows.prediction.tolist(),
                    rows.labels.tolist(),
                    rows.predicted.tolist(),
                    strict=True,
                )
            )
    store.close()
    return found
