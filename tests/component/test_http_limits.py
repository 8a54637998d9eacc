"""What a client may do on the wire: pipelining, codings, limits; and each refusal's status."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest

from agent.inference.supervisor import INFERENCE_SOCKET
from support import workers
from support.bundles import Sample, images
from support.workers import Device, infer

INFER = "/v2/models/digits/infer"
BODY = json.dumps(infer(images(1)[0])).encode()
RAW = (np.rint(images(1).ravel() * 255) - 128).astype(np.int8)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device that serves digits, with limits that a test reaches."""
    state_dir = tmp_path_factory.mktemp("state")
    Sample("v1").put(state_dir, "A")
    limits = {
        "body_bytes_max": 100_000, "bodies_bytes_max": 150_000, "connections_max": 8,
        "request_s_max": 1, "idle_s_max": 2,
    }  # fmt: skip
    with workers.device(state_dir) as made, made.running(**limits):
        yield made


@contextmanager
def _line(device: Device) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(workers.READY_S_MAX)
        line.connect(str(device.run_dir / INFERENCE_SOCKET))
        yield line


def _post(body: bytes = BODY, *headers: str, path: str = INFER) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: d", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _until_closed(line: socket.socket) -> bytes:
    """Return all that the server says until it closes."""
    said = b""
    while piece := line.recv(65536):
        said += piece
    return said


def _answer(line: socket.socket) -> tuple[int, bytes]:
    answer = http.client.HTTPResponse(line)
    answer.begin()
    return answer.status, answer.read()


def test_pipelined_requests_are_answered_in_their_order(device: Device) -> None:
    """Many requests in one piece, or byte by byte, give their answers one after the other."""
    wanted = [f"r{number}" for number in range(40)]
    bodies = [json.dumps(infer(images(1)[0]) | {"id": each}).encode() for each in wanted]
    sent = b"".join(_post(body) for body in bodies[:-1]) + _post(bodies[-1], "Connection: close")
    with _line(device) as line:
        line.sendall(sent)
        assert re.findall(rb'"id":"(r\d+)"', _until_closed(line)) == [
            each.encode() for each in wanted
        ]
    with _line(device) as line:
        for place in range(len(_post())):
            line.sendall(_post()[place : place + 1])
        assert _answer(line)[0] == 200


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        (b"HELLO\r\n\r\n", 400, "this is not HTTP/1.1: "),
        (b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 70_000, 431, "the head has more than 65536 bytes"),
        (f"POST {INFER} HTTP/1.1\r\nHost: d\r\n\r\n".encode(), 411, "say its length by"),
        (_post(bytes(100_001))[:200], 413, "the body is too large; at most 100000 bytes"),
        (
            b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1000\r\n"
            + (b"a" * 4096 + b"\r\n1000\r\n") * 30,
            413,
            "the body is too large",
        ),
        (_post()[:-10], 408, "the request did not come within 1 seconds"),
        (b"POST ", 408, "the request did not come within 1 seconds"),
        (_post(BODY, "Content-Encoding: br"), 415, "the content coding 'br' is unknown"),
        (_post(BODY, "Content-Encoding: gzip"), 400, "the compressed body is damaged"),
        (
            _post(gzip.compress(bytes(20_000_000)), "Content-Encoding: gzip"),
            413,
            "the body is too large; at most 100000 bytes",
        ),
        (_post(gzip.compress(BODY)[:-9], "Content-Encoding: gzip"), 400, "is cut off"),
        (
            _post(BODY, "Inference-Header-Content-Length: -1"),
            400,
            "Inference-Header-Content-Length is no number: b'-1'",
        ),
        (
            _post(BODY, "Inference-Header-Content-Length: 99999"),
            400,
            f"Inference-Header-Content-Length is 99999; the body has {len(BODY)} bytes",
        ),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_each_limit_has_its_refusal(
    device: Device, sent: bytes, status: int, sentence: str
) -> None:
    """The status says what to do, the sentence why; the worker serves on."""
    with _line(device) as line:
        line.sendall(sent)
        told, body = _answer(line)
    assert told == status, body
    assert sentence in json.loads(body)["error"]
    with device.client() as client:
        assert client.get("/v2/health/live").status_code == 200


def test_too_many_connections_are_turned_away(device: Device) -> None:
    """Who comes when all are taken is told to come later, and the others are served."""
    with ExitStack() as stack:
        lines = [stack.enter_context(_line(device)) for _ in range(8)]
        for line in lines:
            line.sendall(_post())
            assert _answer(line)[0] == 200
        with _line(device) as late:
            said = _until_closed(late)
        assert said.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 1\r\n" in said
        lines[0].sendall(_post())
        assert _answer(lines[0])[0] == 200


def test_bodies_share_one_budget_of_memory(device: Device) -> None:
    """Two that each are small enough, and together too large: the second is told to come later."""
    large = _post(bytes(90_000))
    with _line(device) as first, _line(device) as second:
        first.sendall(large[:-10])
        second.sendall(large[:-10])
        assert _answer(second)[0] == 503
        first.sendall(large[-10:])
        assert _answer(first)[0] == 400
    with device.client() as client:  # and what they took was given back
        for _ in range(4):
            assert client.post(INFER, content=bytes(90_000)).status_code == 400


def test_a_silent_connection_is_closed(device: Device) -> None:
    """Keep-alive has an end."""
    with _line(device) as line:
        line.sendall(_post())
        assert _answer(line)[0] == 200
        assert line.recv(10) == b""


def test_a_client_that_waits_for_leave_gets_it(device: Device) -> None:
    """Expect: 100-continue is answered before the body, or with the refusal at once."""
    with _line(device) as line:
        line.sendall(_post(BODY, "Expect: 100-continue")[: -len(BODY)])
        assert line.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(BODY)
        assert _answer(line)[0] == 200


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", zlib.compress(BODY, wbits=-15)),
        ("identity", BODY),
    ],
)
def test_compressed_bodies_are_taken(device: Device, coding: str, body: bytes) -> None:
    """Both codings, and deflate as some clients understand it."""
    with device.client() as client:
        answer = client.post(INFER, content=body, headers={"Content-Encoding": coding})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("accept", "coding"),
    [("gzip", "gzip"), ("br, deflate;q=0.5", "deflate"), ("gzip;q=0", None), ("identity", None)],
)
def test_answers_are_compressed_if_asked(device: Device, accept: str, coding: str | None) -> None:
    """Long ones, and only by what the client takes."""
    body = infer(images(1)[0]) | {"id": "x" * 2000}
    with device.client() as client:
        answer = client.post(INFER, json=body, headers={"Accept-Encoding": accept})
    assert answer.headers.get("content-encoding") == coding
    assert answer.json()["id"] == body["id"]


def _binary(head: Mapping[str, object], *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    start = json.dumps(head).encode()
    return start + b"".join(blobs), {"Inference-Header-Content-Length": str(len(start))}


def _parts(answer: httpx.Response) -> tuple[dict[str, object], bytes]:
    length = int(answer.headers["inference-header-content-length"])
    assert answer.headers["content-type"] == "application/octet-stream"
    return json.loads(answer.content[:length]), answer.content[length:]


def test_tensors_travel_as_bytes_in_both_directions(device: Device) -> None:
    """The same values by JSON and by bytes give the same answer, whichever way it comes."""
    given = {
        "name": "image", "shape": [1, 8, 8, 1], "datatype": "INT8",
        "parameters": {"binary_data_size": 64},
    }  # fmt: skip
    with device.client() as client:
        plain = client.post(
            INFER, json=infer(images(1)[0], datatype="INT8", data=RAW.tolist())
        ).json()["outputs"]
        body, headers = _binary({"inputs": [given]}, RAW.tobytes())
        assert client.post(INFER, content=body, headers=headers).json()["outputs"] == plain
        head = {"inputs": [given], "parameters": {"binary_data_output": True}}
        body, headers = _binary(head, RAW.tobytes())
        told, blob = _parts(client.post(INFER, content=body, headers=headers))
        sizes = [each["parameters"]["binary_data_size"] for each in told["outputs"]]  # type: ignore[attr-defined]
        label = plain[1]["data"][0].encode()
        assert (sizes, len(blob)) == ([10, 5], 15)
        assert np.frombuffer(blob[:10], np.int8).tolist() == plain[0]["data"]
        assert blob[10:] == b"\1\0\0\0" + label
        asked = [{"name": "class"}, {"name": "probs", "parameters": {"binary_data": True}}]
        body, headers = _binary({"inputs": [given], "outputs": asked}, RAW.tobytes())
        told, blob = _parts(client.post(INFER, content=body, headers=headers))
        assert told["outputs"][1]["data"] == plain[1]["data"]  # type: ignore[index]
        assert np.frombuffer(blob, np.int8).tolist() == plain[0]["data"]


def test_a_file_can_be_sent_as_it_is(device: Device) -> None:
    """A body without JSON is the only input, in the datatype that its length tells."""
    headers = {"Inference-Header-Content-Length": "0"}
    with device.client() as client:
        raw = client.post(INFER, content=RAW.tobytes(), headers=headers).json()["outputs"]
        real = client.post(INFER, content=images(1).tobytes(), headers=headers).json()["outputs"]
        wrong = client.post(INFER, content=b"x" * 65, headers=headers)
    assert (raw[0]["datatype"], real[0]["datatype"]) == ("INT8", "FP32")
    assert raw[1] == real[1]
    assert wrong.json()["error"] == ("input 'image' has 65 bytes; expected 256 (FP32) or 64 (INT8)")
