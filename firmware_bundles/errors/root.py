"""The root of the tree: a refusal with its code, its sentence and its hint."""

from __future__ import annotations

from typing import ClassVar


class ShoalError(Exception):
    """A refusal: a stable `code`, a sentence that says what was wrong, a `hint` what to do."""

    code: ClassVar[str] = "internal"
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
