"""The settings of the service: a flag beats the environment, that a file, that the default.

Parsed once, at start; nothing else reads the environment. An unknown name in the file is an error.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from firmware_bundles.errors import ConfigInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX: Final = "SHOAL_"
# What the service last ran with, in its data folder.
SETTINGS: Final = "settings.toml"
_PORT_MAX: Final = 65_535
_TICK_S_MAX: Final = 3_600.0
# Short, for a device that is lost; long enough for one that is offline for some weeks.
_CERTIFICATE_DAYS: Final = (30, 90)
_RETAINED_BYTES_MAX: Final = 2**40
_COUNT_MAX: Final = 10_000_000
_LEAST: Final = {
    "watch_reference_rows": 100,
    "watch_threshold": 10.0,
    "watch_settle_s": 0.0,
    "watch_quiet_windows": 1,
    "silent_s": 1.0,
    "alert_quiet_s": 1.0,
    "alert_renotify_s": 1.0,
}
_PERIOD_MAX: Final = 36_600
_INCARNATIONS: Final = "report_incarnations_max"


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings. `port` and `local_port`: 0 takes a free one.

    `broker` is auto, mosquitto, amqtt or mqtts://HOST:PORT; `advertise` is the name or address
    under which devices reach this machine, empty for `host`; `broker_port` 0 is the usual one;
    `certificate_days` is the life of a device's certificate, which it renews at two thirds;
    `broker_ca` is the file of who certified a foreign broker; `database` is a URL of SQLAlchemy,
    empty for a file in `data`; `patch_bytes_max` is what all patches together may take at the
    broker, and 0 makes none; `retained_bytes_max` limits the other chunks that it retains. `*_days`
    is how long telemetry is kept, see `telemetry.retention.Periods`; 0 keeps it for ever.

    A device's own normal is learnt from `watch_reference_rows` rows; `watch_threshold` is devices
    times the windows wanted between two false alarms of all of them; a device's windows are tested
    when none came for `watch_settle_s`; a change is over after `watch_quiet_windows` quiet ones.

    A device is silent after `silent_s`; what is counted is over when it rests for `alert_quiet_s`;
    an alert that nobody acknowledges is told again every `alert_renotify_s`; `webhook_hosts` are
    the hosts that events may be sent to by http besides this machine, separated by commas.
    """

    data: Path
    database: str = ""
    host: str = "127.0.0.1"
    port: int = 8443
    local_port: int = 8080
    broker: str = "auto"
    broker_port: int = 0
    broker_ca: str = ""
    advertise: str = ""
    certificate_days: int = 60
    retained_bytes_max: int = 256 * 1024 * 1024
    tick_s: float = 0.5
    patch_bytes_max: int = 64 * 1024 * 1024
    watch_reference_rows: int = 5_000
    watch_threshold: float = 10_000.0
    watch_settle_s: float = 30.0
    watch_quiet_windows: int = 20
    predictions_days: float = 14.0
    shadows_days: float = 14.0
    labels_days: float = 90.0
    windows_days: float = 35.0
    samples_days: float = 90.0
    pending_labels_days: float = 30.0
    hourly_days: float = 14.0
    daily_days: float = 800.0
    counts_days: float = 400.0
    segment_keys_days: float = 400.0
    report_incarnations_max: int = 1_000
    silent_s: float = 900.0
    alert_quiet_s: float = 600.0
    alert_renotify_s: float = 86_400.0
    webhook_hosts: str = ""
    log_level: str = "info"

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.data / 'shoal.db'}"

    @property
    def device_host(self) -> str:
        """The name or address that devices are told."""
        return self.advertise or self.host


def load(
    flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None = None
) -> Config:
    """Return the settings; flags that are None count as not given. Raises ConfigInvalid."""
    named = file or environment.get(f"{ENVIRONMENT_PREFIX}CONFIG")
    found: dict[str, Any] = {"data": _data_default(environment)}
    found |= _read(Path(named)) if named else {}
    for field in fields(Config):
        variable = f"{ENVIRONMENT_PREFIX}{field.name.upper()}"
        if variable in environment:
            found[field.name] = _convert(field.type, environment[variable], variable)
    found |= {name: value for name, value in flags.items() if value is not None}
    config = Config(**found)
    _check(config)
    return config


def text(config: Config) -> str:
    """Return the settings as a file for `load`; the folder that it lies in is left out."""
    values = {field.name: getattr(config, field.name) for field in fields(Config)}
    del values["data"]
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    return "\n".join(("# Written at each start.", *lines, ""))


def last(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """Return the settings with which the service of a data folder last ran. Raises ConfigInvalid.

    Flags and environment beat them, as they do for the service itself.
    """
    found = load(flags, environment)
    written = found.data / SETTINGS
    return load(flags, environment, written) if written.exists() else found


def _data_default(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/shoal")
    state = environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "shoal"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"settings file {path} cannot be read: {error}") from error
    types = {field.name: field.type for field in fields(Config)}
    for name in document:
        if name not in types:
            near = difflib.get_close_matches(name, types, n=1)
            raise ConfigInvalid(
                f"settings file {path}: there is no setting {name!r}",
                hint=f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(types)}.",
            )
    return {
        name: _convert(types[name], str(value), f"settings file {path}: {name}")
        for name, value in document.items()
    }


def _convert(kind: object, text: str, what: str) -> Any:  # noqa: ANN401 the field's own type
    makers = {"int": int, "float": float, "Path": Path, "str": str}
    try:
        return makers[str(kind)](text)
    except ValueError as error:
        raise ConfigInvalid(f"{what} is {text!r:.80}, which is no {kind}") from error


def _check(config: Config) -> None:
    for name in ("port", "local_port", "broker_port"):
        value = getattr(config, name)
        if not 0 <= value <= _PORT_MAX:
            raise ConfigInvalid(f"{name} is {value}; a port is 0 to {_PORT_MAX}")
    shortest, longest = _CERTIFICATE_DAYS
    if not shortest <= config.certificate_days <= longest:
        raise ConfigInvalid(
            f"certificate_days is {config.certificate_days}; it must be {shortest} to {longest}"
        )
    if not 0 <= config.retained_bytes_max <= _RETAINED_BYTES_MAX:
        raise ConfigInvalid(
            f"retained_bytes_max is {config.retained_bytes_max}; "
            f"it must be 0 to {_RETAINED_BYTES_MAX}"
        )
    if not 0 < config.tick_s <= _TICK_S_MAX:
        raise ConfigInvalid(
            f"tick_s is {config.tick_s}; it must be more than 0, at most {_TICK_S_MAX:g}"
        )
    for name, least in _LEAST.items():
        value = getattr(config, name)
        if not least <= value <= _COUNT_MAX:
            raise ConfigInvalid(f"{name} is {value:g}; it must be {least:g} to {_COUNT_MAX:g}")
    if config.patch_bytes_max < 0:
        raise ConfigInvalid(f"patch_bytes_max is {config.patch_bytes_max}; 0 makes no patches")
    _check_periods(config)
    if config.log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigInvalid(
            f"log_level is {config.log_level!r}", hint="Say debug, info, warning or error."
        )


def _check_periods(config: Config) -> None:
    names = [field.name for field in fields(Config) if field.name.endswith("_days")]
    for name in (*(each for each in names if each != "certificate_days"), _INCARNATIONS):
        value = getattr(config, name)
        if not 0 <= value <= _PERIOD_MAX:
            raise ConfigInvalid(f"{name} is {value}; it must be 0 to {_PERIOD_MAX}; 0 keeps all")
