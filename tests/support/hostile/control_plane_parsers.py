"""The table of parsers: what people, clients and the broker tell the control plane."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from control_plane import audit, config
from control_plane.broker import endpoint, subscriptions
from control_plane.cli import broker, declared
from control_plane.fleet import certificates, credentials, labels, selectors
from control_plane.rollouts import parsing, prometheus
from control_plane.telemetry import ingest
from control_plane.telemetry import labels as scores
from firmware_bundles.wire import codec, columns
from firmware_bundles.wire.messages import Segment
from support.hostile.inputs import Form
from support.hostile.parser import Parser, from_file, text_of
from support.hostile.wire_parsers import DEVICE, examples

_ROLLOUT: Final[dict[str, Any]] = {
    "schema": "1.1",
    "id": "r-1",
    "family": "digits",
    "release": "2",
    "cohort": "all",
    "exclude": {"devices": ["a"], "selector": "site=lab"},
    "hold_out": {"share": 0.1},
    "phases": [
        {"share": 0.25, "soak_s": 5, "rate": {"devices": 1, "per_s": 1}, "window": "22:00-05:00"},
        {"share": 1.0, "timeout_s": 60, "approval": True, "gates": {"label_errors": None}},
    ],
    "gates": {"installs": {"failed_share_max": 0.1}, "label_errors": {"margin": 0.1}},
    "on_failure": "pause",
    "policy": {"attempts_max": 2},
}
_METRIC: Final = b"""{"status": "success", "data": {"resultType": "vector",
"result": [{"metric": {}, "value": [1.0, "2.5"]}]}}"""
_YAML: Final = b"""\
family: digits
release: "2"
cohort: all
phases:
  - share: 0.25
    soak_s: 5
  - {share: 1.0, soak_s: 5, timeout_s: 60}
gates:
  installs: {failed_share_max: 0.1}
policy: {attempts_max: 2}
"""


_STATEMENT: Final = audit.Statement(1.0, "token:ci:shoal_0", "cohort.made", "cohort/a", {"n": 1})


def _selector(data: bytes) -> selectors.Selector:
    return selectors.parse(text_of(data))


def _arrival(body: bytes) -> object:
    """What the ingest makes of a body whose seal was right."""
    ingest._key_of(body)
    arrival = ingest._decode(DEVICE, codec.decode(Segment, body))
    if isinstance(arrival.rows, columns.Labels):
        scores.count(scores.sort(arrival.rows).settled)
    if arrival.fault is not None:
        raise arrival.fault
    return arrival


def _labels(data: bytes) -> object:
    key, _, value = text_of(data).partition("=")
    labels.check({key: value})
    return key, value


def _token(data: bytes) -> object:
    text = text_of(data)
    return credentials.prefix(text), credentials.matches(text, "0" * 64)


def _settings(path: Path) -> object:
    return config.load({}, {"HOME": "/nowhere"}, path)


def _text(name: str, call: Callable[[str], Any], *seeds: str, **more: Any) -> Parser:  # noqa: ANN401
    return Parser(
        name=name,
        parse=lambda data: call(text_of(data)),
        make_seeds=lambda: [seed.encode() for seed in seeds],
        **more,
    )


PARSERS: Final = (
    Parser(
        name="rollout, JSON",
        parse=parsing.parse,
        make_seeds=lambda: [json.dumps(_ROLLOUT).encode()],
        form=Form.JSON,
        cost=4,
    ),
    Parser(name="rollout, YAML", parse=parsing.parse, make_seeds=lambda: [_YAML], cost=4),
    Parser(
        name="declared cohort",
        parse=declared.parse_cohort,
        make_seeds=lambda: [b"name: a\nselector: b=c\n", b"{name: a, devices: [d-1, d-2]}"],
        cost=2,
    ),
    Parser(
        name="selector",
        parse=_selector,
        encode=lambda found: str(found).encode(),
        make_seeds=lambda: [b"a=b,c!=d,e in (x,y),f notin (z),g,!h", b"a=,b in (,)"],
    ),
    Parser(
        name="segment that is ingested",
        parse=_arrival,
        make_seeds=lambda: [codec.encode(each) for each in examples()[Segment]],
        form=Form.MSGPACK,
    ),
    Parser(name="label of a device", parse=_labels, make_seeds=lambda: [b"site=berlin", b"a/b="]),
    Parser(name="token", parse=_token, make_seeds=lambda: [b"shoal_0123456789_" + b"a" * 64]),
    Parser(
        name="settings of the control plane",
        parse=from_file(_settings),
        make_seeds=lambda: [b'port = 8443\nlog_level = "info"\ntick_s = 1.0\n'],
        cost=2,
    ),
    Parser(
        name="key of a broker's certificate",
        parse=from_file(broker._key),
        make_seeds=lambda: [certificates.key_pem(ec.generate_private_key(ec.SECP256R1()))],
        cost=2,
    ),
    _text("address of a broker", endpoint.parse, "mqtts://host:8883", "mqtt://127.0.0.1:1"),
    _text("line of the broker's log", subscriptions.parse, "1700000000: dev-1 1 shoal/v1/repo/x"),
    Parser(
        name="line of an exported audit log",
        parse=audit.parse_line,
        encode=audit.encode_line,
        make_seeds=lambda: [audit.encode_line(audit.follow(audit.GENESIS, _STATEMENT))],
        form=Form.JSON,
    ),
    _text("head of an audit log", audit.parse_head, str(audit.GENESIS), f"7:{'ab' * 32}"),
    Parser(
        name="answer of a metric server",
        parse=lambda data: prometheus.parse(data, 0.0),
        make_seeds=lambda: [_METRIC],
        form=Form.JSON,
    ),
)
