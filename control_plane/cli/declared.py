"""What a folder declares: cohorts and rollouts, a file each. Read and checked; nothing is sent.

`DIR/cohorts/*.yaml` and `DIR/rollouts/*.yaml`, also `.yml` and `.json`. A file of these kinds that
lies elsewhere is refused, for it would be forgotten without a word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from control_plane.fleet import selectors
from control_plane.fleet.selectors import LISTED_MAX
from control_plane.rollouts import parsing
from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import FileInvalid, InputError
from firmware_bundles.identifiers import CohortName, DeviceId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    ValueT = TypeVar("ValueT")

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_FILES_MAX: Final = 1_000
_COHORTS: Final = "cohorts"
_ROLLOUTS: Final = "rollouts"


class CohortFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cohort as a file declares it: a selector, which may be empty, or a list of devices."""

    name: CohortName
    selector: Annotated[str, Meta(max_length=selectors.SELECTOR_CHARS_MAX)] | None = None
    devices: Annotated[tuple[DeviceId, ...], Meta(max_length=LISTED_MAX)] | None = None


class RolloutFile(NamedTuple):
    """A rollout as a file declares it, and the text, which is what the server is given."""

    spec: RolloutSpec
    content: bytes
    path: Path


class Declared(NamedTuple):
    """All that a folder declares, by name."""

    cohorts: dict[str, CohortFile]
    rollouts: dict[str, RolloutFile]


def read(folder: Path) -> Declared:
    """Return what a folder declares. Raises FileInvalid, which names file, line and field."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder", hint="Give the folder that holds the files: -f.")
    cohorts: dict[str, CohortFile] = {}
    rollouts: dict[str, RolloutFile] = {}
    for path in _files(folder):
        if path.parent.name == _COHORTS:
            cohort = _parsed(path, parse_cohort)
            _once(path, cohort.name, cohorts)[cohort.name] = cohort
        else:
            spec = _parsed(path, parsing.parse)
            name = spec.id
            if name is None:
                raise FileInvalid(
                    f"{path}: id is missing",
                    hint="A declared rollout has a name of its own: it is started only once.",
                )
            _once(path, name, rollouts)[name] = RolloutFile(spec, _content(path), path)
    return Declared(cohorts, rollouts)


def _files(folder: Path) -> Iterator[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if len(found) > _FILES_MAX:
        raise FileInvalid(f"{folder} has {len(found)} files; at most {_FILES_MAX} are read")
    for path in found:
        if path.parent.name not in (_COHORTS, _ROLLOUTS):
            raise FileInvalid(
                f"{path} is neither below {_COHORTS}/ nor below {_ROLLOUTS}/",
                hint="Its folder says what a file declares. Keep other files elsewhere.",
            )
        yield path


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(parsing.ROLLOUT_BYTES_MAX + 1)
    except OSError as error:
        raise FileInvalid(f"{path}: {error.strerror or error}") from error


def parse_cohort(content: bytes) -> CohortFile:
    """Read a cohort's file. Raises InputError and its children."""
    cohort = parsing.parse_form(content, CohortFile)
    if (cohort.selector is None) == (cohort.devices is None):
        raise InputError("give either selector or devices")
    selectors.parse(cohort.selector or "")
    return cohort


def _parsed(path: Path, parse: Callable[[bytes], ValueT]) -> ValueT:
    try:
        return parse(_content(path))
    except InputError as error:
        raise FileInvalid(f"{path}: {error.message}", hint=error.hint) from error


def _once(path: Path, name: str, known: dict[str, ValueT]) -> dict[str, ValueT]:
    if name in known:
        raise FileInvalid(f"{path}: {name} is declared twice")
    return known
