"""What the parts of a rollout file are made of: their base, and the ranges of their numbers."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

MONTH_S: Final = 30 * 86_400
Seconds = Annotated[float, Meta(ge=0, le=MONTH_S)]
Duration = Annotated[float, Meta(gt=0, le=MONTH_S)]
Share = Annotated[float, Meta(gt=0, le=1)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Bytes = Annotated[int, Meta(ge=0, lt=2**53)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An object of the file: no field that is not known."""
