"""All parsers of foreign bytes. A new parser is a row in one of the parts."""

from __future__ import annotations

from typing import Final

from support.hostile import (
    agent_parsers,
    backup_parsers,
    bundle_parsers,
    control_plane_parsers,
    trust_parsers,
    wire_parsers,
)
from support.hostile.parser import Parser

PARSERS: Final[tuple[Parser, ...]] = (
    *wire_parsers.PARSERS,
    *bundle_parsers.PARSERS,
    *trust_parsers.PARSERS,
    *agent_parsers.PARSERS,
    *control_plane_parsers.PARSERS,
    *backup_parsers.PARSERS,
)

_OWN_FILE: Final = "a file that this control plane wrote, in its own folder"
_OWN_ROW: Final = "a row that this control plane wrote, in its own database"
_OWN_KEY: Final = "a key that the caller holds already"
_OUT: Final = "makes bytes, reads none of others"
_PARSED: Final = "a rollout that was parsed before"
_ANSWER: Final = "the answer of the control plane that the caller chose"
_CALLS: Final = "hands on to a parser of the table"

# Readers that need no row, each with the reason.
EXEMPT: Final[dict[str, str]] = {
    "agent.children.Children._converse": _CALLS,
    "agent.task.main": _CALLS,
    "agent.inference.trial._column": "arrays of golden vectors that were parsed before",
    "control_plane.cli.changes._started": "what the server that was asked keeps of a rollout",
    "control_plane.cli.answering._answers": "arrays of answers that were parsed before",
    "control_plane.cli.trial.run": "the answer of a child of the same user, bounded in time",
    "firmware_bundles.conversion._rows": "arrays of answers that were parsed before",
    "agent.local_control.ask": "the answer of the core, on a socket that is its own user's alone",
    "agent.telemetry.forwarder._parse": _CALLS,
    "agent.telemetry.recent.Recent.find": "rows that this process packed, in its own memory",
    "agent.reenrolment._load": "the device's own certificate and key, which it checked and kept",
    "agent.reenrolment._roots": "authorities that the operator handed over at enrolment",
    "control_plane.api.est.router": _OWN_FILE,
    "control_plane.api.est.router.<locals>.renew": "a certificate that this control plane issued",
    "control_plane.api.est.shown": "a certificate that TLS has verified",
    "control_plane.broker.amqtt._configuration": "settings of a library, from its own dictionary",
    "control_plane.fleet.authority.Authority.load_or_create": _OWN_FILE,
    "control_plane.fleet.authority._load_key": _OWN_FILE,
    "control_plane.cli.sample_files._source": _ANSWER,
    "control_plane.cli.sample_files._take": _ANSWER,
    "control_plane.cli.sample_files.asked_again": "a file that the caller names, and may read",
    "control_plane.rollouts.device_policy.DevicePolicy.captured": _PARSED,
    "control_plane.rollouts.device_policy.DevicePolicy.delivery": _PARSED,
    "control_plane.alerts.events.signature": "a secret that this control plane made",
    "control_plane.store.alerts._loaded": _OWN_ROW,
    "control_plane.telemetry.latency_bins.quantile": _OWN_ROW,
    "control_plane.rollouts.order._ranks": "hashes that are made here",
    "control_plane.rollouts.order.shift": "a hash that is made here",
    "control_plane.rollouts.order.slot": "a hash that is made here",
    "control_plane.store.devices.Devices.kinds": _OWN_ROW,
    "control_plane.store.devices._order": _OWN_ROW,
    "control_plane.store.rollouts._loaded": _OWN_ROW,
    "control_plane.store.watches._standing": _OWN_ROW,
    "firmware_bundles.build._classification": "what the owner says on the command line",
    "firmware_bundles.patches._aligned": _OUT,
    "firmware_bundles.patches._differences": _OUT,
    "firmware_bundles.patches._even_bytes": "a constant, made once",
    "firmware_bundles.trust.envelopes.device_key": "a key from a request that was parsed before",
    "firmware_bundles.trust.envelopes.device_signer": _OWN_KEY,
    "firmware_bundles.trust.keys.encode_private": _OUT,
}
