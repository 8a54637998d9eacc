"""The agent's settings: one frozen value, read once, with the place where each came from.

A flag beats the environment (SHOAL_AGENT_<NAME>), which beats the file (<state>/agent.toml), which
beats the default. What the enrolment decides (name, broker, server) stands in `identity`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.identity import KEY
from firmware_bundles.errors import ConfigInvalid
from firmware_bundles.limits import CHUNK_WINDOW_DEFAULT, CHUNK_WINDOW_MAX
from firmware_bundles.wire.messages import WINDOW_PATTERN, Conditions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FILE_NAME: Final = "agent.toml"
STATE_DIR_DEFAULT: Final = Path("/var/lib/shoal-agent")
_PREFIX: Final = "SHOAL_AGENT_"
_FILE_BYTES_MAX: Final = 64 * 1024
# Unix socket paths end at 107 characters, and the longest name in the folder has 14.
_RUN_DIR_CHARS_MAX: Final = 92


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings, with their units in the names."""

    state_dir: Path
    run_dir: Path
    key_file: Path | None = None
    keepalive_s: int = 30
    reconnect_s_min: float = 1.0
    reconnect_s_max: float = 8.0
    hello_jitter_s: float = 1.0
    hello_retry_s: float = 30.0
    hello_s: float = 3600.0
    report_s: float = 900.0
    renew_retry_s: float = 60.0
    chunk_window: int = CHUNK_WINDOW_DEFAULT
    chunk_stall_s: float = 10.0
    mirrors: str = ""
    download_bytes_max: int = 1024**3
    metered_links: str = "wwan* ppp*"
    model_bytes_per_day_max: int | None = None
    metered_bytes_per_day_max: int | None = None
    written_bytes_per_day_max: int | None = None
    maintenance_window: str = ""
    battery_percent_min: float | None = None
    is_mains_needed: bool = False
    temperature_c_max: float | None = None
    worker: str = "child"
    worker_patience_s: float = 60.0
    worker_watchdog_s: float = 30.0
    task_s_max: float = 60.0
    telemetry_in_flight_max: int = 8
    telemetry_retry_s: float = 10.0
    samples_on_metered: bool = False
    telemetry_bytes_per_s_max: int | None = None
    telemetry_bytes_per_day_max: int | None = None

    def conditions(self) -> Conditions:
        """Return when an update may use this device, whatever a rollout allows."""
        return Conditions(
            model_bytes_per_day_max=self.model_bytes_per_day_max,
            metered_bytes_per_day_max=self.metered_bytes_per_day_max,
            written_bytes_per_day_max=self.written_bytes_per_day_max,
            window=self.maintenance_window or None,
            battery_percent_min=self.battery_percent_min,
            is_mains_needed=self.is_mains_needed,
            temperature_c_max=self.temperature_c_max,
        )


class Settings(NamedTuple):
    """The settings and, by name, where each came from."""

    config: Config
    origins: dict[str, str]


# Who starts the inference worker: the core itself, or a service manager with a unit for it.
WORKERS: Final = ("child", "unit")
# The smallest and largest value of each number.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "keepalive_s": (5, 3600),
    "reconnect_s_min": (0.05, 600),
    "reconnect_s_max": (0.05, 3600),
    "hello_jitter_s": (0, 600),
    "hello_retry_s": (0.5, 3600),
    "hello_s": (1, 7 * 86400),
    "report_s": (1, 7 * 86400),
    "renew_retry_s": (0.5, 86400),
    "chunk_window": (1, CHUNK_WINDOW_MAX),
    "chunk_stall_s": (0.1, 3600),
    "worker_patience_s": (1, 3600),
    "worker_watchdog_s": (1, 600),
    "task_s_max": (1, 600),
    "telemetry_in_flight_max": (1, 64),
    "telemetry_retry_s": (0.5, 3600),
    "telemetry_bytes_per_s_max": (64, 2**40),
    "telemetry_bytes_per_day_max": (0, 2**50),
    "download_bytes_max": (64 * 1024, 2**50),
    "model_bytes_per_day_max": (0, 2**50),
    "metered_bytes_per_day_max": (0, 2**50),
    "written_bytes_per_day_max": (0, 2**50),
    "battery_percent_min": (0, 100),
    "temperature_c_max": (-50, 150),
}
_YES_OR_NO: Final = frozenset({"is_mains_needed", "samples_on_metered"})
_WHOLE: Final = frozenset(
    {
        "keepalive_s",
        "chunk_window",
        "telemetry_in_flight_max",
        "telemetry_bytes_per_s_max",
        "telemetry_bytes_per_day_max",
        "download_bytes_max",
        "model_bytes_per_day_max",
        "metered_bytes_per_day_max",
        "written_bytes_per_day_max",
    }
)
# Words and lists of words, each with its form and what to say of another.
_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "mirrors": (r"(?:\s*https?://[^\s]+)*\s*", "addresses (https://...) with blanks between"),
    "metered_links": (r"[^\x00-\x1f]*", "names of network interfaces, as in 'wwan* ppp0'"),
    "maintenance_window": (f"{WINDOW_PATTERN}|", "a span like 'sat,sun 22:00-05:00'"),
}
_SWITCHES: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load(state_dir: Path | None, flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """Read all settings. Raises ConfigInvalid, which names the place of what is wrong."""
    from_environ = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in environ.items()
        if name.startswith(_PREFIX)
    }
    folder = state_dir or Path(from_environ.get("state_dir", STATE_DIR_DEFAULT))
    path = folder / FILE_NAME
    credential = _credential(environ)
    values: dict[str, Any] = {"state_dir": folder, "run_dir": folder / "run"}
    origins = dict.fromkeys((field.name for field in fields(Config)), "default")
    from_file = _read(path)
    if "state_dir" in from_file:
        raise ConfigInvalid(f"state_dir cannot be set in {path}: it says where that file is")
    sources = (
        ("systemd credential", {"key_file": credential} if credential else {}),
        (str(path), from_file),
        ("environment", from_environ),
        ("flag", dict(flags) | ({"state_dir": str(state_dir)} if state_dir else {})),
    )
    for origin, source in sources:
        for name, value in source.items():
            _check_name(name, origin)
            values[name] = _convert(name, value, origin)
            origins[name] = origin
    config = Config(**values)
    _check_together(config)
    return Settings(config, origins)


def _credential(environ: Mapping[str, str]) -> str | None:
    """Return the device's key where the service manager hands one down (systemd.exec(5))."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder) / KEY if folder else None
    return str(path) if path is not None and path.exists() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > _FILE_BYTES_MAX:
        raise ConfigInvalid(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    import tomllib  # where there is no file, a start does without it

    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"{path} is not TOML: {error}") from error


def _check_name(name: str, origin: str) -> None:
    known = [field.name for field in fields(Config)]
    if name in known:
        return
    raise ConfigInvalid(f"unknown setting {name!r:.80} ({origin})", hint=_suggestion(name, known))


def _suggestion(name: str, known: Iterable[str]) -> str:
    import difflib

    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Settings are: {', '.join(names)}."


def _convert(name: str, value: object, origin: str) -> object:
    if name in {"state_dir", "run_dir", "key_file"}:
        if not isinstance(value, str) or not value:
            raise ConfigInvalid(f"{name} must be a path, not {value!r:.80} ({origin})")
        return Path(value)
    if name == "worker":
        return _worker(value, origin)
    if name in _TEXTS:
        return _text(name, value, origin)
    if name in _YES_OR_NO:
        return _switch(name, value, origin)
    kind = int if name in _WHOLE else float
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(name)
        number = kind(value)
        if isinstance(value, float) and number != value:
            raise ValueError(name)
    except (ValueError, OverflowError) as error:
        what = "a whole number" if kind is int else "a number"
        raise ConfigInvalid(f"{name} must be {what}, not {value!r:.80} ({origin})") from error
    low, high = _RANGES[name]
    if not low <= number <= high:
        raise ConfigInvalid(f"{name} must be {low:g} to {high:g}, not {number} ({origin})")
    return number


def _worker(value: object, origin: str) -> object:
    if value not in WORKERS:
        names = " or ".join(WORKERS)
        raise ConfigInvalid(f"worker must be {names}, not {value!r:.80} ({origin})")
    return value


def _text(name: str, value: object, origin: str) -> str:
    form, what = _TEXTS[name]
    if not isinstance(value, str) or re.fullmatch(form, value) is None:
        raise ConfigInvalid(f"{name} must be {what}, not {value!r:.80} ({origin})")
    return value


def _switch(name: str, value: object, origin: str) -> bool:
    chosen = value if isinstance(value, bool) else _SWITCHES.get(str(value).lower())
    if chosen is None:
        raise ConfigInvalid(f"{name} must be true or false, not {value!r:.80} ({origin})")
    return chosen


def _check_together(config: Config) -> None:
    if config.reconnect_s_min > config.reconnect_s_max:
        raise ConfigInvalid(
            f"reconnect_s_min ({config.reconnect_s_min:g}) is above "
            f"reconnect_s_max ({config.reconnect_s_max:g})"
        )
    if len(str(config.run_dir.absolute())) > _RUN_DIR_CHARS_MAX:
        raise ConfigInvalid(
            f"run_dir {config.run_dir} is longer than {_RUN_DIR_CHARS_MAX} characters, "
            "too long for the sockets in it",
            hint="Give a shorter one with 'run --run-dir DIR'.",
        )
