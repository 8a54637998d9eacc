"""python-tuf's client workflow, with what it leaves open: durable files, and floors.

A role is held against its floor before it replaces the trusted copy, so a refused one leaves no
trace. Private parts of python-tuf are used here and in the modules that drive this one, nowhere
else; the version is pinned, and the tests of the workflow notice if they change.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from tuf.api.exceptions import RepositoryError
from tuf.ngclient import Updater

from firmware_bundles import durable
from firmware_bundles.trust import floors
from firmware_bundles.trust.floors import Mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tuf.api.metadata import Key, Role, Root, Targets
    from tuf.ngclient import FetcherInterface, UpdaterConfig

_ONLINE_ROLES: Final = ("timestamp", "snapshot")
# What a role's number rests on. The snapshot guards the numbers of all targets roles.
_FOUNDATIONS: Final[dict[str, tuple[str, ...]]] = {
    "root": (),
    "timestamp": _ONLINE_ROLES,
    "snapshot": _ONLINE_ROLES,
}
_TARGETS_FOUNDATION: Final = (*_ONLINE_ROLES, "targets")


class GuardedUpdater(Updater):
    """An Updater that lets no role below `known`, and tells `note` of each before it is kept."""

    def __init__(
        self,
        metadata_dir: Path,
        metadata_url: str,
        *,
        fetcher: FetcherInterface,
        config: UpdaterConfig,
        bootstrap: bytes,
        known: Mapping[str, Mark],
        note: Callable[[Mapping[str, Mark]], None],
    ) -> None:
        self._known = known
        self._note = note
        super().__init__(
            str(metadata_dir), metadata_url, fetcher=fetcher, config=config, bootstrap=bootstrap
        )

    def marks(self) -> dict[str, Mark]:
        """Return the marks of all roles that were verified in this run."""
        trusted = self._trusted_set
        return {role: self._mark(role) for role in trusted._trusted_set}  # noqa: SLF001

    def _load_root(self) -> None:
        self._count_root_keys()
        super()._load_root()
        self._count_root_keys()

    def _persist_root(self, version: int, data: bytes) -> None:
        self._count_root_keys()
        super()._persist_root(version, data)

    def _count_root_keys(self) -> None:
        root = self._trusted_set.root
        count_each_key_once(root.roles.values(), root.keys)

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        targets = super()._load_targets(role, parent_role)
        if targets.delegations is not None and targets.delegations.roles is not None:
            count_each_key_once(targets.delegations.roles.values(), targets.delegations.keys)
        return targets

    def _load_timestamp(self) -> None:
        """Forget timestamp and snapshot first if root gave them new keys (TUF 5.3.11)."""
        present = _mark_of(self._trusted_set.root, "timestamp", 0)
        if floors.is_rotated(self._known.get("timestamp"), present):
            for role in _ONLINE_ROLES:
                Path(self._dir, f"{role}.json").unlink(missing_ok=True)
            durable.sync_directory(Path(self._dir))
        super()._load_timestamp()

    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        found = {rolename: self._mark(rolename)}
        floors.check(self._known, found)
        self._note(found)
        super()._persist_metadata(rolename, data)

    def _persist_file(self, filename: str, data: bytes) -> None:
        """Write durably what is new: python-tuf hands over the anchor again in each run."""
        path = Path(filename)
        if not path.is_file() or path.read_bytes() != data:
            durable.write(path, data)

    def _mark(self, role: str) -> Mark:
        return _mark_of(self._trusted_set.root, role, self._trusted_set[role].version)


def count_each_key_once(delegated: Iterable[Role], keys: Mapping[str, Key]) -> None:
    """Leave one id of each key: python-tuf counts ids, and a threshold means different keys.

    Raises RepositoryError for an id that is no text, which python-tuf lets through.
    """
    for role in delegated:
        if not all(isinstance(keyid, str) for keyid in role.keyids):
            raise RepositoryError(f"a role names its keys as {role.keyids!r:.80}")
        found: dict[str, str] = {}
        for keyid in role.keyids:
            public = str(keys[keyid].keyval.get("public")) if keyid in keys else keyid
            found.setdefault("".join(public.split()), keyid)
        role.keyids = list(found.values())


def _mark_of(root: Root, role: str, version: int) -> Mark:
    foundation = _FOUNDATIONS.get(role, _TARGETS_FOUNDATION)
    keys = {key for each in foundation for key in root.roles[each].keyids}
    return Mark(version=version, keys=tuple(sorted(keys)))
