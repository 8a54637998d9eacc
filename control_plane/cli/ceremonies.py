"""What owners do with their keys later: rotate, add and revoke families, withdraw releases.

Private keys are read from the owners' folder and stay on this machine; what goes out is signed
roles. Commands and their words stand in `keys` and `release`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from firmware_bundles.errors import InputError
from firmware_bundles.trust import key_folder, keys, publisher, roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from control_plane.cli.http import Api
    from firmware_bundles.trust.keys import Key, Signer

ROOT_NAMES: Final = tuple(f"root-{number + 1}" for number in range(roles.ROOT_KEYS))
ONLINE_NAMES: Final = ("snapshot", "timestamp", "director")


def rotate(api: Api, folder: Path, name: str, passphrase: bytes) -> str:
    """Give a role or a family a new key; return the new key's id. Raises InputError, TrustError."""
    held = key_folder.signers(folder, passphrase)
    if name in ONLINE_NAMES:
        return _rotate_online(api, held, name)
    own = name if name in (*ROOT_NAMES, "targets") else key_folder.family_name(name)
    fresh = key_folder.successor(folder, own, passphrase)
    if name in ROOT_NAMES:
        _rotate_root_key(api, held, name, fresh)
    elif name == "targets":
        _rotate_targets(api, held, fresh)
    else:
        _rotate_family(api, held, name, fresh)
    key_folder.settle(folder, own)
    return fresh.public_key.keyid


def add_family(api: Api, folder: Path, family: str, passphrase: bytes) -> str:
    """Make a family with a key of its own; return the key's id. Raises InputError, TrustError."""
    held = key_folder.signers(folder, passphrase)
    targets = api.get_bytes("trust/targets")
    name = key_folder.family_name(family)
    if name in held:
        raise InputError(f"this folder holds a key of the family {family} already")
    fresh = key_folder.successor(folder, name, passphrase)
    present = publisher.family_keys(targets).get(family)
    if present is not None and present.keyid != fresh.public_key.keyid:
        raise InputError(f"the family {family} is there already")
    if present is None:
        now = time.time()
        role = publisher.next_targets(
            targets, _held(held, "targets"), families={family: fresh.public_key}, now=now
        )
        first = publisher.create_family(fresh, now=now)
        _send(api, targets=role, families={family: first})
    key_folder.settle(folder, name)
    return fresh.public_key.keyid


def revoke_family(api: Api, folder: Path, family: str, passphrase: bytes) -> None:
    """Take all trust from a family, and its releases with it. Raises InputError, TrustError."""
    held = key_folder.signers(folder, passphrase)
    targets = api.get_bytes("trust/targets")
    role = publisher.next_targets(
        targets, _held(held, "targets"), revoked=[family], now=time.time()
    )
    _send(api, targets=role)


def change_terms(
    api: Api,
    signer: Signer,
    family: str,
    *,
    min_release: int | None = None,
    withdraw: Iterable[str] = (),
) -> roles.Floor:
    """Raise a family's floor or withdraw releases; return what is no longer allowed."""
    role = publisher.next_terms(
        api.get_bytes(f"trust/roles/{family}"),
        signer,
        now=time.time(),
        min_release=min_release,
        withdraw=withdraw,
    )
    api.post(f"trust/roles/{family}", json={"role": role.decode()})
    return publisher.floor_in(role)


def overview(api: Api) -> list[dict[str, object]]:
    """Return each role with threshold and key ids, as the control plane holds them."""
    named = publisher.root_keys(api.get_bytes("trust/root"))
    rows = [_row(role, threshold, each) for role, (threshold, each) in sorted(named.items())]
    families = publisher.family_keys(api.get_bytes("trust/targets"))
    rows += [_row(f"family {name}", 1, [key]) for name, key in sorted(families.items())]
    directors = keys.parse_public_list(api.get_bytes("trust/director-keys"))
    return [*rows, _row("director", 1, directors)]


def _rotate_online(api: Api, held: Mapping[str, Signer], name: str) -> str:
    fresh = keys.parse_public(api.post(f"trust/online-keys/{name}/next", json={}))
    if name == "director":
        listed = keys.encode_public_list([fresh])
        targets = publisher.next_targets(
            api.get_bytes("trust/targets"),
            _held(held, "targets"),
            director_keys=listed,
            now=time.time(),
        )
        _send(api, targets=targets, director_keys=listed)
    else:
        _send(api, root=_next_root(api, held, {name: [fresh]}))
    return fresh.keyid


def _rotate_root_key(api: Api, held: Mapping[str, Signer], name: str, fresh: Signer) -> None:
    """Replace one root key by another; the others may be represented by their public halves."""
    _, named = publisher.root_keys(api.get_bytes("trust/root"))["root"]
    former = _held(held, name).public_key.keyid
    if any(key.keyid == fresh.public_key.keyid for key in named):
        return  # it was taken before, only the answer was lost
    kept = [key for key in named if key.keyid != former]
    if len(kept) == len(named):
        raise InputError(f"{name} of this folder is no root key of this control plane")
    signers = {**held, "next": fresh}
    _send(api, root=_next_root(api, signers, {"root": [*kept, fresh.public_key]}))


def _rotate_targets(api: Api, held: Mapping[str, Signer], fresh: Signer) -> None:
    root = _next_root(api, held, {"targets": [fresh.public_key]})
    targets = publisher.next_targets(api.get_bytes("trust/targets"), fresh, now=time.time())
    _send(api, root=root, targets=targets)


def _rotate_family(api: Api, held: Mapping[str, Signer], family: str, fresh: Signer) -> None:
    """The old role is signed again by the new key, as the owners of targets know the old one."""
    present = api.get_bytes("trust/targets")
    former = publisher.family_keys(present).get(family)
    if former is None:
        raise InputError(f"the owners delegate to no family {family!r:.40}")
    now = time.time()
    targets = publisher.next_targets(
        present, _held(held, "targets"), families={family: fresh.public_key}, now=now
    )
    role = publisher.next_terms(
        api.get_bytes(f"trust/roles/{family}"), fresh, former=former, now=now
    )
    _send(api, targets=targets, families={family: role})


def _next_root(api: Api, held: Mapping[str, Signer], changed: Mapping[str, list[Key]]) -> bytes:
    signers = [signer for name, signer in held.items() if name in (*ROOT_NAMES, "next")]
    return publisher.next_root(api.get_bytes("trust/root"), signers, keys=changed, now=time.time())


def _held(held: Mapping[str, Signer], name: str) -> Signer:
    if name not in held:
        raise InputError(f"the key {name} is not in this folder", hint="Fetch it from its place.")
    return held[name]


def _row(role: str, threshold: int, named: Iterable[Key]) -> dict[str, object]:
    return {"role": role, "threshold": threshold, "keys": [key.keyid for key in named]}


def _send(api: Api, **change: bytes | Mapping[str, bytes]) -> None:
    body: dict[str, Any] = {
        name: value.decode()
        if isinstance(value, bytes)
        else {family: data.decode() for family, data in value.items()}
        for name, value in change.items()
    }
    api.post("trust/changes", json=body)
