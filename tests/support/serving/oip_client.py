"""Asks an endpoint all that a public client of the Open Inference Protocol knows to ask.

python oip_client.py HOST:PORT: in an environment with tritonclient[http]; prints what was checked.
"""

from __future__ import annotations

import sys

import numpy as np
from tritonclient import http
from tritonclient.utils import InferenceServerException

IMAGE = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)


def given(*, is_binary: bool, datatype: str = "FP32") -> list[http.InferInput]:
    """Return the image as an input."""
    made = http.InferInput("image", [1, 8, 8, 1], datatype)
    values = IMAGE if datatype == "FP32" else (np.rint(IMAGE * 255) - 128).astype(np.int8)
    made.set_data_from_numpy(values, binary_data=is_binary)
    return [made]


def check_facts(client: http.InferenceServerClient) -> None:
    """Ask who it is, and what it serves."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "shoal"
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "v1")
    facts = client.get_model_metadata("digits")
    assert facts["inputs"][0]["datatype"] == "FP32"
    assert facts["inputs"][0]["shape"] == [1, 8, 8, 1]
    assert {each["name"] for each in facts["outputs"]} == {"probs", "class"}


def check_answers(client: http.InferenceServerClient) -> None:
    """Ask in JSON and in bytes, both ways; all answers are the same."""
    found = []
    for is_binary in (False, True):
        for wants_binary in (False, True):
            outputs = [
                http.InferRequestedOutput(name, binary_data=wants_binary)
                for name in ("probs", "class")
            ]
            answer = client.infer(
                "digits", given(is_binary=is_binary), outputs=outputs, request_id="mine"
            )
            assert answer.get_response()["id"] == "mine"
            probs = answer.as_numpy("probs")
            (name,) = answer.as_numpy("class")
            assert probs.shape == (1, 10)
            name = name.decode() if isinstance(name, bytes) else name
            assert name == str(int(probs.argmax())), (name, probs)
            found.append(probs)
    assert all(np.array_equal(found[0], each) for each in found)


def check_the_rest(client: http.InferenceServerClient) -> None:
    """Stored values, compressed bodies, several at once, and a refusal."""
    stored = client.infer("digits", given(is_binary=True, datatype="INT8"), model_version="v1")
    assert stored.as_numpy("probs").dtype == np.int8
    for coding in ("gzip", "deflate"):
        answer = client.infer(
            "digits",
            given(is_binary=True),
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        assert answer.as_numpy("probs").dtype == np.float32
    waiting = [client.async_infer("digits", given(is_binary=True)) for _ in range(32)]
    assert len({each.get_result().as_numpy("probs").tobytes() for each in waiting}) == 1
    assert "input 'picture' is unknown; expected 'image'" in refusal(client, "picture")


def refusal(client: http.InferenceServerClient, name: str) -> str:
    """Return what is said of an input that the model has not."""
    made = http.InferInput(name, [1], "FP32").set_data_from_numpy(IMAGE[0, 0, 0])
    try:
        client.infer("digits", [made])
    except InferenceServerException as refused:
        return str(refused)
    return ""


def main() -> None:
    """Check everything."""
    client = http.InferenceServerClient(sys.argv[1], concurrency=8)
    for check in (check_facts, check_answers, check_the_rest):
        check(client)
        print(check.__name__)
    client.close()


if __name__ == "__main__":
    main()
