"""The paths of the endpoint: which verb, of which model. What verbs do is `protocol`'s affair."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from typing import Final, NamedTuple

# No family and version are so long; what is remembered of paths has a bound by it.
_PATH_CHARS_MAX: Final = 1024


class Verb(StrEnum):
    """What a path asks for."""

    SERVER = "server"
    LIVE = "live"
    READY = "ready"
    MODEL = "model"
    MODEL_READY = "model ready"
    INFER = "infer"
    FEEDBACK = "feedback"


class Route(NamedTuple):
    """A path, read; `version` is None where the path names none."""

    verb: Verb
    family: str = ""
    version: str | None = None


def of(path: str) -> Route | None:
    """Return what a path leads to, None for nothing."""
    return _read(path) if len(path) <= _PATH_CHARS_MAX else None


@lru_cache(maxsize=256)
def _read(path: str) -> Route | None:
    match path.split("/"):
        case ["", "v2", "models", family, "versions", version, *rest]:
            return _of_model(rest, family, version)
        case ["", "v2", "models", family, *rest]:
            return _of_model(rest, family)
        case ["", "v2"]:
            return Route(Verb.SERVER)
        case ["", "v2", "health", "live"]:
            return Route(Verb.LIVE)
        case ["", "v2", "health", "ready"]:
            return Route(Verb.READY)
    return None


def _of_model(rest: list[str], family: str, version: str | None = None) -> Route | None:
    match rest:
        case ["infer"]:
            return Route(Verb.INFER, family, version)
        case ["feedback"] if version is None:
            return Route(Verb.FEEDBACK, family)
        case ["ready"]:
            return Route(Verb.MODEL_READY, family, version)
        case []:
            return Route(Verb.MODEL, family, version)
    return None
