"""The endpoint: Open Inference Protocol v2 over HTTP, REST, JSON, as a raw ASGI application.

Paths, methods, statuses and bodies stand here; tensors in `tensors`, models in `registry`. Every
refusal is {"error": sentence}. Beside the protocol there is POST .../feedback, which takes the
truth about an earlier prediction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from agent.inference import tensors
from agent.inference.quantization import Port, Reals, Stored
from agent.inference.registry import Registry, Serving
from agent.inference.served import ServedModel
from agent.inference.tensors import Refused, Taken
from agent.telemetry.feedback import Feedback
from agent.telemetry.recorder import Recorder
from firmware_bundles.errors import InputRefused, ModelUnusable, NotFound, ShoalError

BODY_BYTES_MAX: Final = 32 * 1024 * 1024

_INLINE_US_MAX: Final = 2000  # longer inferences leave the loop's thread free
_UNKNOWN: Final = -1
_NO_SCORES: Final = np.zeros(0, dtype=np.float32)
_JSON: Final = [(b"content-type", b"application/json")]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_encode = msgspec.json.Encoder().encode


class Told(msgspec.Struct):
    """The truth about one prediction: its id, and the name or index of its class."""

    id: str
    label: str | int


class Answer(NamedTuple):
    """What the model gave: stored and real values of each output, and what they mean.

    `scores` are those of the classes, `predicted` the index of the largest, -1 without classes.
    """

    stored: list[Stored]
    real: list[Reals]
    scores: Reals
    predicted: int


class Endpoint:
    """The ASGI application (ASGI 3, HTTP connection scope)."""

    def __init__(
        self,
        registry: Registry,
        recorder: Recorder,
        feedback: Feedback,
        version: str,
        on_event: Callable[..., None],
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._feedback = feedback
        self._version = version
        self._on_event = on_event
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="infer")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        headers = _JSON
        try:
            status, answer = 200, await self._answer(scope, receive)
        except Refused as error:
            status, answer = error.status, {"error": error.message}
            if status == 405:  # noqa: PLR2004 - RFC 9110, section 15.5.6
                headers = [*_JSON, (b"allow", b"GET" if scope["method"] != "GET" else b"POST")]
        except Exception as error:  # noqa: BLE001 - a client never sees a traceback
            self._on_event("request_failed", path=scope["path"], error=repr(error))
            status, answer = 500, {"error": "the request failed inside the worker; see its log"}
        body = _encode(answer)
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [*headers, (b"content-length", b"%d" % len(body))],
            }
        )
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Message, receive: Receive) -> object:
        method = scope["method"]
        match scope["path"].split("/"):
            case ["", "v2", "models", family, "versions", version, *verb]:
                return await self._model(scope, receive, verb, family, version)
            case ["", "v2", "models", family, *verb]:
                return await self._model(scope, receive, verb, family)
            case ["", "v2"]:
                _allow(method, "GET")
                return {"name": "shoal", "version": self._version, "extensions": ["feedback"]}
            case ["", "v2", "health", "live"]:
                _allow(method, "GET")
                return {"live": True}
            case ["", "v2", "health", "ready"]:
                _allow(method, "GET")
                return self._all_ready()
        raise _nothing(scope)

    async def _model(
        self,
        scope: Message,
        receive: Receive,
        verb: list[str],
        family: str,
        version: str | None = None,
    ) -> object:
        match verb:
            case ["infer"]:
                _allow(scope["method"], "POST")
                return await self._infer(self._serving(family, version), scope, receive)
            case ["feedback"] if version is None:
                _allow(scope["method"], "POST")
                return await self._tell(self._serving(family), scope, receive)
            case ["ready"]:
                _allow(scope["method"], "GET")
                return _ready(self._serving(family, version))
            case []:
                _allow(scope["method"], "GET")
                return _metadata(self._serving(family, version))
        raise _nothing(scope)

    def _serving(self, family: str, version: str | None = None) -> Serving:
        serving = self._registry.serving.get(family)
        if serving is None:
            if (reason := self._registry.reasons.get(family)) is not None:
                raise Refused(503, f"model {family!r} is not ready: {reason}")
            known = ", ".join(self._registry.families()) or "none"
            raise Refused(404, f"model {family!r:.80} is unknown; this device has: {known}")
        if version is not None and version != serving.model.version:
            raise Refused(
                404,
                f"model {family!r} has no version {version!r:.80} here; "
                f"it serves {serving.model.version!r}",
            )
        return serving

    def _all_ready(self) -> object:
        if self._registry.reasons:
            family, reason = min(self._registry.reasons.items())
            raise Refused(503, f"model {family!r} is not ready: {reason}")
        if not self._registry.serving:
            raise Refused(503, "no model was deployed to this device yet")
        return {"ready": True}

    async def _infer(self, serving: Serving, scope: Message, receive: Receive) -> object:
        body = await _body(scope, receive)
        model = serving.model
        taken = tensors.take(body, model.inputs, model.output_names)
        started = time.perf_counter_ns()
        stored = await self._run(model, taken.stored)
        latency_us = (time.perf_counter_ns() - started) // 1000
        answer = _interpret(model, stored)
        # Before the answer: what was answered is never lost.
        prediction = self._recorder.prediction(
            serving.recording,
            predicted=answer.predicted,
            latency_us=latency_us,
            scores=answer.scores,
            features=taken.features,
        )
        mirror = self._registry.mirrors.get(model.manifest.family)
        if mirror is not None and mirror.live is model:
            sequence = self._recorder.last_sequence
            mirror.offer(sequence, taken.features, answer.predicted, answer.scores)
        model.answered += 1
        model.latency_us_sum += latency_us
        return _response(model, taken, answer, prediction)

    async def _run(self, model: ServedModel, stored: list[Stored]) -> list[Stored]:
        try:
            if model.latency_us_typical <= _INLINE_US_MAX:
                return model.run(stored)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, model.run, stored)
        except InputRefused as error:
            model.refusals += 1
            raise Refused(422, f"{error.message} ({error.code})") from error
        except ModelUnusable as error:
            model.errors += 1
            raise Refused(500, error.message) from error

    async def _tell(self, serving: Serving, scope: Message, receive: Receive) -> object:
        told = parse_feedback(await _body(scope, receive))
        try:
            is_recorded = self._feedback.tell(
                serving.recording, serving.model.bundle.labels, told.id, told.label
            )
        except NotFound as error:
            raise Refused(404, error.message) from error
        except ShoalError as error:
            raise Refused(400, error.message) from error
        return {"id": told.id, "recorded": is_recorded}


def parse_feedback(body: bytes) -> Told:
    """Read the body of feedback. Raises Refused."""
    try:
        return msgspec.json.decode(body, type=Told)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not feedback: {error}") from error


async def _body(scope: Message, receive: Receive) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > BODY_BYTES_MAX:
            raise _too_large()
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    parts, size = [body], len(body)
    while message.get("more_body", False):
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > BODY_BYTES_MAX:
            raise _too_large()
    return b"".join(parts)


def _nothing(scope: Message) -> Refused:
    return Refused(404, f"there is nothing at {scope['path']!r:.120}")


def _too_large() -> Refused:
    return Refused(413, f"the body is too large; at most {BODY_BYTES_MAX} bytes are taken")


def _allow(method: str, allowed: str) -> None:
    if method != allowed:
        raise Refused(405, f"{method:.20} is not possible here; use {allowed}")


def _interpret(model: ServedModel, stored: list[Stored]) -> Answer:
    real = [port.real(each) for each, port in zip(stored, model.outputs, strict=True)]
    if model.scores_place is None:
        return Answer(stored, real, _NO_SCORES, _UNKNOWN)
    scores = real[model.scores_place]
    return Answer(stored, real, scores, int(scores.argmax()))


def _response(model: ServedModel, taken: Taken, answer: Answer, prediction: str) -> dict[str, Any]:
    outputs = [
        tensors.give(stored, real, port, is_raw=taken.is_raw)
        for stored, real, port in zip(answer.stored, answer.real, model.outputs, strict=True)
        if taken.outputs is None or port.name in taken.outputs
    ]
    if model.has_class_output and (taken.outputs is None or tensors.CLASS_OUTPUT in taken.outputs):
        outputs.append(tensors.give_class(model.bundle.labels[answer.predicted]))
    response: dict[str, Any] = {
        "model_name": model.manifest.family,
        "model_version": model.version,
        "parameters": {"prediction_id": prediction},
        "outputs": outputs,
    }
    if taken.id is not None:
        response["id"] = taken.id
    return response


def _ready(serving: Serving) -> object:
    return {"name": serving.model.manifest.family, "ready": True}


def _metadata(serving: Serving) -> object:
    model = serving.model
    outputs = [_tensor(port) for port in model.outputs]
    if model.has_class_output:
        outputs.append({"name": tensors.CLASS_OUTPUT, "datatype": "BYTES", "shape": [1]})
    return {
        "name": model.manifest.family,
        "versions": [model.version],
        "platform": model.backend.runtime,
        "inputs": [_tensor(port) for port in model.inputs],
        "outputs": outputs,
    }


def _tensor(port: Port) -> dict[str, Any]:
    preferred, *others = port.datatypes
    facts: dict[str, Any] = {"name": port.name, "datatype": preferred, "shape": port.shape}
    if others:
        scale, zero_point = port.tensor.scale, port.tensor.zero_point
        stored_as = {"datatype": others[0], "scale": scale, "zero_point": zero_point}
        facts["parameters"] = {"stored_as": stored_as}
    return facts
