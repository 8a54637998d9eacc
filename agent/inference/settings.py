"""The worker's settings: one frozen value, read once from SHOAL_INFERENCE_<NAME>.

Where the state lies and which sockets are inherited is the entry's affair (`worker`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from firmware_bundles.errors import ConfigInvalid

_PREFIX: Final = "SHOAL_INFERENCE_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings, with their units in the names.

    `memory_bytes_max` 0 means no limit, `interpreters` 0 one a core, `compress_bytes_min` 0 never.
    """

    flush_ms: float = 200.0
    segment_age_s: float = 10.0
    window_age_s: float = 3600.0
    predictions_share: float = 1.0
    buffer_bytes_max: int = 64 * 1024 * 1024
    journal_bytes_max: int = 64 * 1024 * 1024
    memory_bytes_max: int = 0
    interpreters: int = 0
    threads: int = 1
    connections_max: int = 256
    waiting_max: int = 32
    body_bytes_max: int = 32 * 1024 * 1024
    bodies_bytes_max: int = 128 * 1024 * 1024
    compress_bytes_min: int = 1024
    request_s_max: float = 30.0
    answer_s_max: float = 30.0
    idle_s_max: float = 75.0


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "flush_ms": (1, 60_000),
    "segment_age_s": (0.05, 86_400),
    "window_age_s": (0.05, 30 * 86_400),
    "predictions_share": (0, 1),
    "buffer_bytes_max": (256 * 1024, 2**40),
    "journal_bytes_max": (64 * 1024, 2**32),
    "memory_bytes_max": (0, 2**44),
    "interpreters": (0, 64),
    "threads": (1, 64),
    "connections_max": (1, 1024),
    "waiting_max": (1, 4096),
    "body_bytes_max": (1024, 2**31),
    "bodies_bytes_max": (1024, 2**34),
    "compress_bytes_min": (0, 2**31),
    "request_s_max": (0.1, 3600),
    "answer_s_max": (0.1, 3600),
    "idle_s_max": (0.1, 86_400),
}


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ConfigInvalid, which names the variable that is wrong."""
    defaults = Settings()
    kinds: dict[str, type[int | float]] = {
        field.name: type(getattr(defaults, field.name)) for field in fields(Settings)
    }
    values: dict[str, float] = {}
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX):
            continue
        name = variable.removeprefix(_PREFIX).lower()
        if name not in kinds:
            raise ConfigInvalid(f"{variable} is no setting", hint=f"There are: {', '.join(kinds)}.")
        low, high = _RANGES[name]
        try:
            values[name] = kinds[name](text)
        except ValueError as error:
            raise ConfigInvalid(f"{variable} must be a number, not {text!r:.80}") from error
        if not low <= values[name] <= high:
            raise ConfigInvalid(f"{variable} must be {low:g} to {high:g}, not {text:.80}")
    return Settings(**values)  # type: ignore[arg-type]  # each was made by its field's own type
