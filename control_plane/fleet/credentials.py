"""Secrets that a person carries: API tokens, enrolment tokens. Pure but for the randomness.

Only a digest is stored. A token has 256 random bits, so a plain SHA-256 is enough: there is no
dictionary to try. The prefix finds the row and may be shown.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from enum import StrEnum
from typing import Final, NamedTuple

_SECRET_BYTES: Final = 32
_PREFIX_BYTES: Final = 5
_TOKEN_CHARS_MAX: Final = 256


class Kind(StrEnum):
    """What a token is for; also how its text begins, so that a leaked one is recognised."""

    API = "shoal"
    ENROLMENT = "enrol"


class Credential(NamedTuple):
    """A fresh token: `text` is shown once, `prefix` and `digest` are stored."""

    text: str
    prefix: str
    digest: str


def mint(kind: Kind) -> Credential:
    """Return a token that nobody has seen."""
    prefix = f"{kind.value}_{secrets.token_hex(_PREFIX_BYTES)}"
    text = f"{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    return Credential(text, prefix, digest(text))


def digest(text: str) -> str:
    """Return what is stored of a token."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def prefix(text: str) -> str:
    """Return the part of a token that finds its row; empty if the text is no token."""
    head, _, secret = text[:_TOKEN_CHARS_MAX].rpartition("_")
    return head if secret else ""


def matches(text: str, stored_digest: str) -> bool:
    """Whether `text` is the token of which `stored_digest` was stored; in constant time."""
    return hmac.compare_digest(digest(text), stored_digest)
