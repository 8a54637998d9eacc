"""What the user said for the whole command: which server, as whom, printed how."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SERVER_DEFAULT: Final = "http://127.0.0.1:8080"


class Format(StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options that stand before (or after) every command."""

    server: str = SERVER_DEFAULT
    token: str | None = None
    ca: Path | None = None
    output: Format = Format.TABLE


CURRENT: Final[ContextVar[Options]] = ContextVar("options", default=Options())  # noqa: B039 - frozen
