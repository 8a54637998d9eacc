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
    """All settings, with their units in the names. `memory_bytes_max` 0 means no limit."""

    flush_ms: float = 200.0
    segment_age_s: float = 10.0
    window_age_s: float = 3600.0
    buffer_bytes_max: int = 64 * 1024 * 1024
    journal_bytes_max: int = 64 * 1024 * 1024
    memory_bytes_max: int = 0


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "flush_ms": (1, 60_000),
    "segment_age_s": (0.05, 86_400),
    "window_age_s": (0.05, 30 * 86_400),
    "buffer_bytes_max": (256 * 1024, 2**40),
    "journal_bytes_max": (64 * 1024, 2**32),
    "memory_bytes_max": (0, 2**44),
}


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings. Raises ConfigInvalid, which names the variable that is wrong."""
    kinds = {
        field.name: int if field.name.endswith("bytes_max") else float for field in fields(Settings)
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
