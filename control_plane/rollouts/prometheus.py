"""Asks Prometheus servers what rollouts' gates on metrics want to know; decides nothing.

The instant query of its HTTP API (v1). An answer has to be one number: a scalar, or a vector of
one element.
"""

from __future__ import annotations

import math
from typing import Any, Final
from urllib.parse import urlencode

import httpx
import msgspec

from control_plane import outgoing
from control_plane.rollouts.evidence import Metric
from control_plane.rollouts.gate_specs import MetricGate

ANSWER_BYTES_MAX: Final = 256 * 1024
DEADLINE_S: Final = 15.0
_FAULT_CHARS_MAX: Final = 200
_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


class _Data(msgspec.Struct):
    resultType: str  # noqa: N815 - the API's name
    result: list[Any]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""


class _Element(msgspec.Struct):
    value: tuple[float, str]


def ask(gate: MetricGate, now: float) -> Metric:
    """Return what the server says at `now` (Unix seconds), or why it says nothing."""
    url = f"{gate.url.rstrip('/')}/api/v1/query"
    form = urlencode({"query": gate.query, "time": f"{now:.3f}"}).encode()
    try:
        _, body = outgoing.post(url, form, _FORM, s_max=DEADLINE_S, bytes_max=ANSWER_BYTES_MAX)
    except TimeoutError:
        return _fault(now, f"the answer was not there after {DEADLINE_S:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        return _fault(now, f"the server cannot be asked: {str(error) or type(error).__name__}")
    if len(body) > ANSWER_BYTES_MAX:
        return _fault(now, f"the answer has more than {ANSWER_BYTES_MAX} bytes")
    return parse(body, now)


def parse(body: bytes, now: float) -> Metric:
    """Read an answer, which came at `now`; one that is no single number is a fault."""
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        if answer.status != "success" or answer.data is None:
            return _fault(now, f"the server refuses the query: {answer.error or answer.status}")
        value = _number(answer.data)
    except (msgspec.DecodeError, ValueError, RecursionError, UnicodeDecodeError) as error:
        return _fault(now, f"the answer is no number: {error}")
    return Metric(value, now)


def _number(data: _Data) -> float:
    if data.resultType == "scalar":
        _, text = msgspec.convert(data.result, tuple[float, str])
    elif data.resultType == "vector" and len(data.result) == 1:
        _, text = msgspec.convert(data.result[0], _Element).value
    else:
        raise ValueError(f"a {data.resultType:.20} of {len(data.result)} elements")
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it is {value}")
    return value


def _fault(now: float, why: str) -> Metric:
    shown = "".join(each if each.isprintable() else "?" for each in why[:_FAULT_CHARS_MAX])
    return Metric(None, now, shown)
