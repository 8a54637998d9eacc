"""Replacing keys, lost or stolen ones too, and signing roles again before they end.

All that one command changes is handed in as one change: the control plane takes it whole, and
devices never see half of it. An interrupted rotation goes on with the same new keys.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from control_plane.cli import ceremonies
from firmware_bundles.errors import InputError
from firmware_bundles.trust import key_folder, keys, publisher, roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from control_plane.cli.http import Api
    from firmware_bundles.trust.keys import Key, Signer

ONLINE_NAMES: Final = ("snapshot", "timestamp", "director")
_NUMBERED: Final = ("root", "targets")


@dataclass
class _Change:
    """What a ceremony changes: keys by role of the root, keys by family, directors."""

    root: dict[str, list[Key]] = field(default_factory=dict)
    families: dict[str, Signer] = field(default_factory=dict)
    director_keys: bytes | None = None
    fresh: list[Signer] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Present:
    """What the control plane holds now, and the owners' keys that are here."""

    root: bytes
    targets: bytes
    held: Mapping[str, Signer]

    def named(self, role: str) -> tuple[Key, ...]:
        return publisher.root_keys(self.root)[role][1]

    def names(self) -> list[str]:
        """All names that can be rotated, root and targets as a whole among them."""
        numbered = [
            name for role in _NUMBERED for name in key_folder.numbered(role, len(self.named(role)))
        ]
        return [*_NUMBERED, *numbered, *ONLINE_NAMES, *publisher.family_keys(self.targets)]


def rotate(
    api: Api,
    folder: Path,
    names: Sequence[str],
    passphrase: bytes,
    *,
    lost: Sequence[str] = (),
) -> dict[str, str]:
    """Give every named key a successor; return the new ids by name.

    `lost` holds ids, or their beginnings, of keys whose files are gone, where it is not clear
    otherwise which they are. Raises InputError, TrustError and its children.
    """
    present = _look(api, folder, passphrase)
    wanted = _expanded(names, present)
    change, own, ids = _Change(), [], {}
    former = _former(present, wanted, lost)
    for name in wanted:
        if name in ONLINE_NAMES:
            key = keys.parse_public(api.post(f"trust/online-keys/{name}/next", json={}))
            _plan_online(change, name, key)
            ids[name] = key.keyid
            continue
        file = name if roles.role_of(name) else key_folder.family_name(name)
        fresh = key_folder.successor(folder, file, passphrase)
        _plan_own(change, present, name, fresh, former.get(name))
        own.append(file)
        ids[name] = fresh.public_key.keyid
    _carry_out(api, present, change)
    for file in own:
        key_folder.settle(folder, file)
    return ids


def renew(api: Api, folder: Path, names: Sequence[str], passphrase: bytes) -> None:
    """Sign root, targets or families again as they are, for another life.

    Raises InputError, TrustError.
    """
    present = _look(api, folder, passphrase)
    known = publisher.family_keys(present.targets)
    if unknown := [name for name in names if name not in (*_NUMBERED, *known)]:
        raise InputError(
            f"{unknown[0]!r:.40} is no role that owners sign",
            hint=f"They are {', '.join((*_NUMBERED, *known))}.",
        )
    now = time.time()
    signed: dict[str, bytes | Mapping[str, bytes]] = {}
    if "root" in names:
        signed["root"] = publisher.next_root(present.root, _roots(present), keys={}, now=now)
    if "targets" in names:
        signers = _targets_signers(present, present.root, ())
        signed["targets"] = publisher.next_targets(present.targets, signers, now=now)
    families = {
        name: publisher.next_terms(
            api.get_bytes(f"trust/roles/{name}"),
            key_folder.family_signer(folder, name, passphrase),
            now=now,
        )
        for name in names
        if name in known
    }
    ceremonies.send(api, **signed, **({"families": families} if families else {}))


def _look(api: Api, folder: Path, passphrase: bytes) -> _Present:
    return _Present(
        root=api.get_bytes("trust/root"),
        targets=api.get_bytes("trust/targets"),
        held=key_folder.signers(folder, passphrase),
    )


def _expanded(names: Iterable[str], present: _Present) -> list[str]:
    """Return the names of single keys. Raises InputError for one that is not known."""
    found: list[str] = []
    for name in names:
        if name in _NUMBERED:
            found += key_folder.numbered(name, len(present.named(name)))
        elif name in present.names():
            found.append(name)
        else:
            raise InputError(
                f"there is no key {name!r:.40}", hint=f"There are {', '.join(present.names())}."
            )
    return list(dict.fromkeys(found))


def _former(present: _Present, wanted: Iterable[str], lost: Sequence[str]) -> dict[str, str]:
    """Return the id that each numbered key has now; a lost one is found by what is left over."""
    found: dict[str, str] = {}
    for role in _NUMBERED:
        named = [key.keyid for key in present.named(role)]
        here = {name: each.public_key.keyid for name, each in present.held.items()}
        mine = [name for name in wanted if roles.role_of(name) == role]
        found |= {name: here[name] for name in mine if here.get(name) in named}
        missing = [name for name in mine if name not in found]
        left = [keyid for keyid in named if keyid not in here.values()]
        if lost:
            left = [keyid for keyid in left if keyid.startswith(tuple(lost))]
        if len(left) < len(missing) or (len(left) > len(missing) > 0):
            raise InputError(
                f"which key {missing[0]} was cannot be told: its file is not in this folder",
                hint="Name the lost key by --key-id: "
                + (", ".join(keyid[:12] for keyid in left) or "none is left over"),
            )
        found |= dict(zip(missing, left, strict=False))
    return found


def _plan_online(change: _Change, name: str, key: Key) -> None:
    if name == "director":
        change.director_keys = keys.encode_public_list([key])
    else:
        change.root[name] = [key]


def _plan_own(
    change: _Change, present: _Present, name: str, fresh: Signer, former: str | None
) -> None:
    """Note one new key of the owners, unless it was taken before and only the answer was lost."""
    key = fresh.public_key
    change.fresh.append(fresh)
    role = roles.role_of(name)
    if role is None:
        if publisher.family_keys(present.targets)[name].keyid != key.keyid:
            change.families[name] = fresh
        return
    named = change.root.get(role, list(present.named(role)))
    if key.keyid not in {each.keyid for each in named}:
        change.root[role] = [*(each for each in named if each.keyid != former), key]


def _carry_out(api: Api, present: _Present, change: _Change) -> None:
    """Sign what the change needs, and hand all of it in at once."""
    now, root = time.time(), present.root
    signed: dict[str, bytes | Mapping[str, bytes]] = {}
    if change.root:
        signers = [*_roots(present), *change.fresh]
        signed["root"] = root = publisher.next_root(root, signers, keys=change.root, now=now)
    if "targets" in change.root or change.families or change.director_keys:
        signed["targets"] = publisher.next_targets(
            present.targets,
            _targets_signers(present, root, change.fresh),
            families={name: fresh.public_key for name, fresh in change.families.items()},
            director_keys=change.director_keys,
            now=now,
        )
    if change.director_keys:
        signed["director_keys"] = change.director_keys
    if change.families:
        signed["families"] = {
            name: _next_family(api, present, name, fresh, now)
            for name, fresh in change.families.items()
        }
    if signed:
        ceremonies.send(api, **signed)


def _next_family(api: Api, present: _Present, family: str, fresh: Signer, now: float) -> bytes:
    """Sign a family's role anew as it is: the former key is known from the list of families."""
    former = publisher.family_keys(present.targets)[family]
    return publisher.next_terms(
        api.get_bytes(f"trust/roles/{family}"), fresh, former=former, now=now
    )


def _roots(present: _Present) -> list[Signer]:
    return [each for name, each in present.held.items() if roles.role_of(name) == "root"]


def _targets_signers(present: _Present, root: bytes, fresh: Iterable[Signer]) -> list[Signer]:
    """Return signers of the list of families under `root`. Raises InputError."""
    every = {**present.held, **{each.public_key.keyid: each for each in fresh}}
    return ceremonies.targets_signers(every, *publisher.root_keys(root)["targets"])
