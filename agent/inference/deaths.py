"""What earlier workers died of, and what follows: an input is refused, or a model is to blame.

Two deaths at one input make the input poisonous: it is refused, and the model serves on. Deaths at
different inputs are the model's: the core is told how many, and rolls back. Written once a death;
how a death is noticed stands in `breadcrumbs`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from agent.inference.breadcrumbs import Act, Crumb
from firmware_bundles import durable

NAME: Final = "deaths.json"
LAST_WORDS: Final = "last-words"  # where Python writes which signal ends it (faulthandler)

INPUT_DEATHS_MAX: Final = 2
START_DEATHS_MAX: Final = 3
SWAP_DEATHS_MAX: Final = 2
WINDOW_S: Final = 3600.0  # deaths of a model count together for so long
_KEPT_S: Final = 86400.0  # whoever was killed twice at one input by chance is forgiven, too
_KEPT_MAX: Final = 1000
_BYTES_MAX: Final = 1024 * 1024
_FATAL: Final = re.compile(r"Fatal Python error: ([A-Za-z ]{1,40})")


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a worker: what it was at. `time` is Unix seconds, `signal` empty if unknown."""

    time: float
    act: Act
    family: str
    model: str
    input: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")] = ""
    signal: str = ""


def traced(
    left: Sequence[Crumb], time: float, signal: str, *, is_accelerated: bool = False
) -> list[Death]:
    """Return the deaths that breadcrumbs tell of; a model that was loading died at that.

    With an accelerator in use no input is to blame: the death counts as the accelerator's, which
    is held off then, so that an input that kills without it is still found.
    """
    loading = {(each.family, each.model) for each in left if each.act is not Act.INVOKING}
    return [
        Death(time=time, signal=signal, **each._asdict())
        for each in left
        if each.act is not Act.INVOKING
        or not (is_accelerated or (each.family, each.model) in loading)
    ]


def refused(deaths: Iterable[Death], model: str) -> frozenset[bytes]:
    """Return the digests of the inputs that this model is not given any more."""
    counts = _inputs(deaths, model)
    return frozenset(bytes.fromhex(each) for each in counts if counts[each] >= INPUT_DEATHS_MAX)


def killers(deaths: Iterable[Death], model: str, now: float) -> int:
    """Return at how many different inputs this model died lately."""
    return len(_inputs((each for each in deaths if each.time > now - WINDOW_S), model))


def repeated(deaths: Iterable[Death], model: str) -> int:
    """Return how many deaths were at an input that had killed before: nobody's new fault."""
    counts = _inputs(deaths, model)
    return counts.total() - len(counts)


def at_loading(deaths: Iterable[Death], model: str, act: Act) -> int:
    """Return how often a worker died while it loaded this model, since it last could."""
    return sum(each.model == model and each.act is act for each in deaths)


def _inputs(deaths: Iterable[Death], model: str) -> Counter[str]:
    return Counter(each.input for each in deaths if each.model == model and each.input)


class Register:
    """The deaths on disk, beside what is recorded; what cannot be read or written is forgotten."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self.deaths: tuple[Death, ...] = ()
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            with self._path.open("rb") as file:
                data = file.read(_BYTES_MAX)
            self.deaths = msgspec.json.decode(data, type=tuple[Death, ...])

    def add(self, new: Sequence[Death], now: float) -> None:
        """Keep deaths, durably, before anything is loaded that may bring the next one."""
        if new:
            recent = (each for each in self.deaths if now - _KEPT_S < each.time <= now)
            self._keep((*recent, *new)[-_KEPT_MAX:])

    def loaded(self, model: str) -> None:
        """Forget deaths at loading this model: it could be loaded."""
        left = tuple(e for e in self.deaths if e.model != model or e.act is Act.INVOKING)
        if left != self.deaths:
            self._keep(left)

    def _keep(self, deaths: tuple[Death, ...]) -> None:
        self.deaths = deaths
        with suppress(OSError):  # a full disk: it holds for this process
            durable.write(self._path, msgspec.json.encode(deaths))


def last_signal(directory: Path) -> str:
    """Return which signal ended the worker before, as far as its last words say."""
    try:
        with (directory / LAST_WORDS).open(errors="replace") as file:
            found = _FATAL.search(file.read(_BYTES_MAX))
    except OSError:
        return ""
    return found[1].strip() if found else ""
