"""The endpoint: Open Inference Protocol v2 (REST), its paths, methods and statuses.

HTTP itself is `http`'s affair, tensors are `tensors`' and `answers`', models are in `registry`.
Every refusal is {"error": sentence}. Beside the protocol there is POST .../feedback, which takes
the truth about an earlier prediction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import msgspec

from agent.inference import answers, content_coding, http, routes, tensors
from agent.inference.http import Request, Response
from agent.inference.quantization import Port, Stored
from agent.inference.refused import Refused, retry_later
from agent.inference.registry import Registry, Serving
from agent.inference.routes import Route, Verb
from agent.inference.served import ServedModel
from agent.inference.tensors import Taken
from agent.telemetry.feedback import Feedback, Statement
from agent.telemetry.recorder import Recorder
from firmware_bundles.errors import InputRefused, ModelUnusable, NotFound, ShoalError

EXTENSIONS: Final = ("binary_tensor_data", "feedback")

_HEAD_LENGTH: Final = b"inference-header-content-length"
_INLINE_BYTES_MAX: Final = 64 * 1024  # longer bodies are compressed in another thread

_encode = msgspec.json.Encoder().encode

Outcome = Response | Awaitable[Response]
Answer = Callable[[Route, Request], Outcome]


class EndpointLimits(NamedTuple):
    """What requests may take. `threads` run the models that are not quick, `waiting_max` wait."""

    threads: int
    waiting_max: int
    answer_s_max: float
    body_bytes_max: int
    compress_bytes_min: int


class Endpoint:
    """Answers requests; called on the loop's thread."""

    def __init__(
        self,
        registry: Registry,
        recorder: Recorder,
        feedback: Feedback,
        limits: EndpointLimits,
        on_event: Callable[..., None],
    ) -> None:
        self._registry = registry
        self._recorder = recorder
        self._feedback = feedback
        self._limits = limits
        self._on_event = on_event
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="infer")
        self._in_threads = 0
        self._verbs: Mapping[Verb, tuple[str, Answer]] = {
            Verb.INFER: ("POST", self._infer),
            Verb.FEEDBACK: ("POST", self._tell),
            Verb.MODEL: ("GET", self._model),
            Verb.MODEL_READY: ("GET", self._model_ready),
            Verb.READY: ("GET", self._ready),
            Verb.LIVE: ("GET", _live),
            Verb.SERVER: ("GET", _server),
        }

    def __call__(self, request: Request) -> Outcome:
        """Answer one request, at once where that is quick."""
        try:
            if b"content-encoding" in request.headers:
                return self._guarded(request, self._decoded(request))
            outcome = self._answer(request)
        except Refused as error:
            return http.refusal(error)
        except Exception as error:  # noqa: BLE001 - a client never sees a traceback
            return self._failed(request, error)
        if isinstance(outcome, Response):
            return self._compressed(request, outcome)
        return self._guarded(request, outcome)

    async def _guarded(self, request: Request, work: Awaitable[Response]) -> Response:
        try:
            outcome = self._compressed(request, await work)
            return outcome if isinstance(outcome, Response) else await outcome
        except Refused as error:
            return http.refusal(error)
        except Exception as error:  # noqa: BLE001 - as above
            return self._failed(request, error)

    def _failed(self, request: Request, error: Exception) -> Response:
        self._on_event("request_failed", path=request.path, error=repr(error))
        return http.refusal(Refused(500, "the request failed inside the worker; see its log"))

    # Content codings.

    async def _decoded(self, request: Request) -> Response:
        coding = request.headers[b"content-encoding"].decode("latin-1").strip().lower()
        most = self._limits.body_bytes_max
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(
            self._threads, content_coding.decode, request.body, coding, most
        )
        outcome = self._answer(msgspec.structs.replace(request, body=body))
        return outcome if isinstance(outcome, Response) else await outcome

    def _compressed(self, request: Request, response: Response) -> Outcome:
        accept = request.headers.get(b"accept-encoding")
        least = self._limits.compress_bytes_min
        if accept is None or not least or len(response.body) < least:
            return response
        coding = content_coding.chosen(accept)
        if not coding:
            return response
        if len(response.body) <= _INLINE_BYTES_MAX:
            return _coded(response, coding)
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, _coded, response, coding)

    # Paths.

    def _answer(self, request: Request) -> Outcome:
        route = routes.of(request.path)
        if route is None:
            raise Refused(404, f"there is nothing at {request.path!r:.120}")
        method, answer = self._verbs[route.verb]
        if request.method != method:
            raise Refused(
                405,
                f"{request.method:.20} is not possible here; use {method}",
                f"allow: {method}\r\n".encode(),
            )
        return answer(route, request)

    def _model_ready(self, route: Route, _request: Request) -> Response:
        name = self._serving(route).model.manifest.family
        return _json({"name": name, "ready": True})

    def _model(self, route: Route, _request: Request) -> Response:
        return _json(_metadata(self._serving(route).model))

    def _serving(self, route: Route) -> Serving:
        _, family, version = route
        serving = self._registry.serving.get(family)
        if serving is None:
            if (reason := self._registry.reasons.get(family)) is not None:
                raise retry_later(503, f"model {family!r} is not ready: {reason}", 5)
            known = ", ".join(self._registry.families()) or "none"
            raise Refused(404, f"model {family!r:.80} is unknown; this device has: {known}")
        if version is not None and version != serving.model.version:
            raise Refused(
                404,
                f"model {family!r} has no version {version!r:.80} here; "
                f"it serves {serving.model.version!r}",
            )
        return serving

    def _ready(self, _route: Route, _request: Request) -> Response:
        if self._registry.reasons:
            family, reason = min(self._registry.reasons.items())
            raise Refused(503, f"model {family!r} is not ready: {reason}")
        if not self._registry.serving:
            raise Refused(503, "no model was deployed to this device yet")
        return _json({"ready": True})

    # Inference.

    def _infer(self, route: Route, request: Request) -> Outcome:
        serving = self._serving(route)
        model = serving.model
        body = _body(request)
        taken = tensors.take(body, model.inputs, model.offered, _head_length(request))
        if taken.segment is not None:
            _check_segment(serving, taken.segment)
        if not model.is_quick:
            return self._infer_in_thread(serving, taken)
        return self._finish(serving, taken, *_timed(model, taken.stored))

    def _infer_in_thread(self, serving: Serving, taken: Taken) -> Coroutine[Any, Any, Response]:
        most = self._limits.waiting_max + self._limits.threads
        if self._in_threads >= most:
            raise retry_later(429, f"{most} requests are being computed or wait; no more are taken")
        self._in_threads += 1
        # Now, not when the coroutine starts: until then others would be let in.
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, _timed, serving.model, taken.stored)
        work.add_done_callback(self._thread_is_free)
        return self._finish_in_time(serving, taken, work)

    def _thread_is_free(self, _work: object) -> None:
        self._in_threads -= 1

    async def _finish_in_time(
        self, serving: Serving, taken: Taken, work: asyncio.Future[tuple[list[Stored], int]]
    ) -> Response:
        most = self._limits.answer_s_max
        try:
            async with asyncio.timeout(most):
                stored, latency_us = await work
        except TimeoutError as error:
            serving.model.errors += 1
            raise retry_later(503, f"the model did not answer within {most:g} seconds") from error
        return self._finish(serving, taken, stored, latency_us)

    def _finish(
        self, serving: Serving, taken: Taken, stored: list[Stored], latency_us: int
    ) -> Response:
        model = serving.model
        answer = answers.interpret(model, stored)
        # Before the answer: what was answered is never lost.
        prediction = self._recorder.prediction(
            serving.recording,
            predicted=answer.predicted,
            latency_us=latency_us,
            scores=answer.scores,
            features=taken.features,
            segment=serving.recording.segments.get(taken.segment or "", 0),
        )
        mirror = self._registry.mirrors.get(model.manifest.family)
        if mirror is not None and mirror.live is model:
            sequence = self._recorder.last_sequence
            mirror.offer(sequence, taken, answer.predicted, answer.scores)
        model.answered += 1
        model.latency_us_sum += latency_us
        return answers.respond(model, taken, answer, prediction)

    def _tell(self, route: Route, request: Request) -> Response:
        serving = self._serving(route)
        told = parse_feedback(_body(request))
        try:
            is_recorded = self._feedback.tell(serving.recording, serving.model.bundle.labels, told)
        except NotFound as error:
            raise Refused(404, error.message) from error
        except ShoalError as error:
            raise Refused(400, error.message) from error
        return _json({"id": told.id, "recorded": is_recorded})


def parse_feedback(body: bytes) -> Statement:
    """Read the body of feedback. Raises Refused."""
    try:
        return msgspec.json.decode(body, type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(400, f"the body is not feedback: {error}") from error


def _check_segment(serving: Serving, segment: str) -> None:
    """Refuse a segment that a baseline which declares some does not. Raises Refused."""
    declared = serving.recording.segments
    if declared and segment not in declared:
        known = ", ".join(repr(name) for name in declared if name)
        raise Refused(400, f"segment {segment!r:.80} is unknown; expected one of {known}")


def _timed(model: ServedModel, stored: list[Stored]) -> tuple[list[Stored], int]:
    """Return what the model gives and the microseconds it took. Raises Refused."""
    started = time.perf_counter_ns()
    try:
        outputs = model.backend.run(stored)
    except InputRefused as error:
        model.refusals += 1
        raise Refused(422, f"{error.message} ({error.code})") from error
    except ModelUnusable as error:
        model.errors += 1
        raise Refused(500, error.message) from error
    return outputs, (time.perf_counter_ns() - started) // 1000


def _body(request: Request) -> bytes:
    headers = request.headers
    if b"content-length" not in headers and b"transfer-encoding" not in headers:
        raise Refused(411, "the request has no body: say its length by Content-Length")
    return request.body


def _head_length(request: Request) -> int | None:
    said = request.headers.get(_HEAD_LENGTH)
    if said is None:
        return None
    if not said.isdigit() or len(said) > 10:  # noqa: PLR2004 - digits; more than any body has
        raise Refused(400, f"Inference-Header-Content-Length is no number: {said[:40]!r}")
    return int(said)


def _live(_route: Route, _request: Request) -> Response:
    return _json({"live": True})


def _server(_route: Route, _request: Request) -> Response:
    from importlib import metadata  # 1.6 MB, for what hardly anybody asks

    return _json({"name": "shoal", "version": metadata.version("shoal"), "extensions": EXTENSIONS})


def _json(value: object) -> Response:
    return Response(200, _encode(value))


def _coded(response: Response, coding: str) -> Response:
    body = content_coding.encode(response.body, coding)
    told = f"content-encoding: {coding}\r\nvary: accept-encoding\r\n".encode()
    return Response(response.status, body, response.headers + told)


def _metadata(model: ServedModel) -> object:
    outputs = [_tensor(port) for port in model.outputs]
    for name in model.made_outputs:
        (datatype,) = model.offered[name]
        outputs.append({"name": name, "datatype": datatype, "shape": [model.top_k]})
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
