"""What a set of files made and no longer declares: what `shoal apply --prune` removes, and keeps.

A cohort is deleted, a rollout that nobody was offered yet is aborted. One that runs is left alone
unless it is said that it shall not be; one that ended is history, and stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from control_plane.cli.changes import Change, Kind
from firmware_bundles.errors import FileInvalid, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from control_plane.cli.declared import Declared
    from control_plane.cli.http import Api

_OPEN: Final = ("running", "paused", "rolling_back", "rolling_back_phase")
_BEFORE: Final = ("pending", "awaiting")


def removals(api: Api, declared: Declared, folder: str, *, is_sure: bool) -> list[Change]:
    """Return what would be removed, rollouts before the cohorts that they go by.

    Raises FileInvalid where nothing at all is declared, unless somebody is sure.
    """
    made = api.get(f"declarations/{quote(folder, safe='')}")
    cohorts = [name for name in made["cohorts"] if name not in declared.cohorts]
    rollouts = [name for name in made["rollouts"] if name not in declared.rollouts]
    if (cohorts or rollouts) and not (declared.cohorts or declared.rollouts or is_sure):
        raise FileInvalid(
            "the folder declares nothing: all that it ever made would be removed",
            hint="Is it the right folder? If so, say --yes.",
        )
    found = list(_rollouts(api, rollouts, is_sure=is_sure))
    ended = {change.name for change in found if change.kind is Kind.REMOVED}
    return [*found, *_cohorts(api, cohorts, ended)]


def _rollouts(api: Api, names: list[str], *, is_sure: bool) -> Iterator[Change]:
    for name in names:
        path = f"rollouts/{quote(name, safe='')}"
        try:
            known = api.get(path)
        except NotFound:
            continue
        if known["state"] in _OPEN:
            yield _rollout(name, path, known, is_sure=is_sure)


def _rollout(name: str, path: str, known: dict[str, Any], *, is_sure: bool) -> Change:
    abort = ("POST", f"{path}/abort", None)
    if known["phase"] == 0 and known["phase_state"] in _BEFORE:
        return Change("rollout", name, Kind.REMOVED, "aborted before any offer", abort)
    state = known["state"].replace("_", " ")
    if is_sure:
        told = f"aborted while it is {state}; devices stay as they are"
        return Change("rollout", name, Kind.REMOVED, told, abort)
    told = f"not declared any more, but {state}: --yes aborts it, and leaves devices as they are"
    return Change("rollout", name, Kind.KEPT, told)


def _cohorts(api: Api, names: list[str], ended: set[str]) -> Iterator[Change]:
    known = {each["name"] for each in api.get("cohorts")["cohorts"]} if names else set()
    users = {
        each["cohort"]: each["id"]
        for each in (api.get("rollouts") if names else ())
        if each["state"] in _OPEN and each["id"] not in ended
    }
    for name in names:
        if name in users:
            told = f"not declared any more, but the rollout {users[name]} goes by it"
            yield Change("cohort", name, Kind.KEPT, told)
        elif name in known:
            request = ("DELETE", f"cohorts/{quote(name, safe='')}", None)
            yield Change("cohort", name, Kind.REMOVED, "not declared any more", request)
