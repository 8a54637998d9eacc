"""Which broker runs: what was asked for, or the best that this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from control_plane.broker import mosquitto
from control_plane.broker.endpoint import (
    PLAIN_PORT_DEFAULT,
    TLS_PORT_DEFAULT,
    Broker,
    External,
)
from control_plane.broker.mosquitto import Mosquitto
from firmware_bundles.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.config import Config
    from control_plane.fleet.authority import Pair

_HOW_TO_GET: Final = "apt install mosquitto, or --broker amqtt for a first look on this machine."


def choose(
    config: Config,
    *,
    ca: bytes,
    server: Pair,
    revoked: bytes,
    exceeded: Callable[[str, str], None],
    note: Callable[[str], None],
) -> Broker:
    """Return the broker of `config.broker`, not started; `note` is told what a person must know.

    `exceeded` is told who subscribes to what no device needs, where the broker says so.

    Raises ConfigInvalid.
    """
    wanted = config.broker
    if wanted not in {"auto", "mosquitto", "amqtt"}:
        return External(wanted)
    program = mosquitto.find()
    if wanted == "mosquitto" and program is None:
        raise ConfigInvalid("mosquitto is not installed on this machine", hint=_HOW_TO_GET)
    if program is not None and wanted != "amqtt":
        broker = Mosquitto(
            program,
            config.data / "broker",
            host=config.host,
            port=config.broker_port or TLS_PORT_DEFAULT,
            offered_host=config.device_host,
            exceeded=exceeded,
        )
        broker.prepare(ca, server, revoked)
        return broker
    from control_plane.broker import amqtt

    note(amqtt.NOTICE)
    return amqtt.Amqtt(config.broker_port or PLAIN_PORT_DEFAULT)
