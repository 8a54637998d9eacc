"""What is declared against what there is: the changes that would make them the same.

Cohorts come before rollouts, which may need them. What is removed stands in `pruning`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from control_plane.rollouts.spec import RolloutSpec
from firmware_bundles.errors import FileInvalid, InputError, NotFound, ServerUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_plane.cli.declared import CohortFile, Declared, RolloutFile
    from control_plane.cli.http import Api


class Kind(StrEnum):
    """What a change does; what is kept is not declared any more, and stays all the same."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    KEPT = "kept"


_SIGNS: Final = {
    Kind.NEW: "+",
    Kind.CHANGED: "~",
    Kind.UNCHANGED: "=",
    Kind.REMOVED: "-",
    Kind.KEPT: "!",
}
MAKING: Final = (Kind.NEW, Kind.CHANGED)


class Change(NamedTuple):
    """One declared thing and what becomes of it; `request` makes it so."""

    what: str
    name: str
    kind: Kind
    told: str
    request: tuple[str, str, Any] | None = None

    @property
    def document(self) -> dict[str, str]:
        """The change as JSON has it."""
        return {"what": self.what, "name": self.name, "change": self.kind, "told": self.told}

    def __str__(self) -> str:
        return f"{_SIGNS[self.kind]} {self.what} {self.name}: {self.told}"


def compare(api: Api, declared: Declared) -> list[Change]:
    """Return what is to be done, in order. Raises FileInvalid."""
    known = {each["name"]: each for each in api.get("cohorts")["cohorts"]}
    cohorts = [_cohort(known.get(name), each) for name, each in sorted(declared.cohorts.items())]
    fresh = {change.name for change in cohorts if change.kind is not Kind.UNCHANGED}
    return [*cohorts, *_rollouts(api, declared, fresh)]


def carry_out(api: Api, change: Change, folder: str) -> None:
    """Make one thing as it is declared, in the name of a set of files; or remove it."""
    if change.request is None:
        return
    method, path, body = change.request
    match method:
        case "PUT":
            api.put(path, json=body)
        case "DELETE":
            api.delete(path)
        case _:
            api.post(path, content=body)
    # Afterwards: what is not noted is never removed.
    if change.kind in MAKING:
        noted = {"kind": change.what, "name": change.name}
        api.post(f"declarations/{quote(folder, safe='')}", json=noted)


def _cohort(known: dict[str, Any] | None, wanted: CohortFile) -> Change:
    listed = None if wanted.devices is None else sorted(set(wanted.devices))
    body = {"selector": wanted.selector or "", "listed": listed}
    told = _meaning(body)
    request = ("PUT", f"cohorts/{quote(wanted.name, safe='')}", body)
    if known is None:
        return Change("cohort", wanted.name, Kind.NEW, told, request)
    if {name: known[name] for name in body} == body:
        return Change("cohort", wanted.name, Kind.UNCHANGED, f"{told}, {known['devices']} devices")
    return Change("cohort", wanted.name, Kind.CHANGED, f"{_meaning(known)} -> {told}", request)


def _meaning(cohort: dict[str, Any]) -> str:
    if cohort["listed"] is None:
        return f"selector {cohort['selector']!r}"
    return f"a list of {len(cohort['listed'])}"


def _rollouts(api: Api, declared: Declared, fresh: set[str]) -> Iterator[Change]:
    for name, file in sorted(declared.rollouts.items()):
        try:
            known = api.get(f"rollouts/{quote(name, safe='')}")
        except NotFound:
            yield _new(api, name, file, fresh)
        else:
            yield _started(name, file, known)


def _started(name: str, file: RolloutFile, known: dict[str, Any]) -> Change:
    """Compare with a rollout that was started: what it is for cannot be changed any more."""
    try:
        former = msgspec.convert(known["spec"], RolloutSpec)
    except msgspec.ValidationError as error:
        raise ServerUnreachable(
            f"rollout {name} is kept in a form that this command does not know: {error}",
            hint="Use the command of the server's release.",
        ) from error
    if former == file.spec:
        return Change("rollout", name, Kind.UNCHANGED, known["state"].replace("_", " "))
    fields = [
        field
        for field in RolloutSpec.__struct_fields__
        if getattr(former, field) != getattr(file.spec, field)
    ]
    raise FileInvalid(
        f"{file.path}: rollout {name} was started with another {', '.join(fields)}",
        hint="A rollout is not changed once it was started: give the new one another id.",
    )


def _new(api: Api, name: str, file: RolloutFile, fresh: set[str]) -> Change:
    spec = file.spec
    told = f"{spec.family}/{spec.release} to {spec.cohort}"
    if {spec.cohort, *spec.exclude.cohorts} & fresh:
        told = f"{told}; checked when its cohort is there"
    else:
        try:
            checked = api.post("rollouts/check", content=file.content)
        except InputError as error:
            raise FileInvalid(f"{file.path}: {error.message}", hint=error.hint) from error
        told = f"{told}, {checked['members']} devices, phases reach {checked['phase_ends']}"
    return Change("rollout", name, Kind.NEW, told, ("POST", "rollouts", file.content))
