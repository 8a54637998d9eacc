"""What owners do with their keys later: add and revoke families, withdraw releases.

Private keys are read from the owners' folder and stay on this machine; what goes out is signed
roles. Commands and their words stand in `keys` and `release`, how keys are replaced in `rotation`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from firmware_bundles.errors import InputError
from firmware_bundles.trust import key_folder, keys, publisher, roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from control_plane.cli.http import Api
    from firmware_bundles.trust.keys import Key, Signer


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
            targets, _targets_signers(api, held), families={family: fresh.public_key}, now=now
        )
        first = publisher.create_family(fresh, now=now)
        send(api, targets=role, families={family: first})
    key_folder.settle(folder, name)
    return fresh.public_key.keyid


def revoke_family(api: Api, folder: Path, family: str, passphrase: bytes) -> None:
    """Take all trust from a family, and its releases with it. Raises InputError, TrustError."""
    held = key_folder.signers(folder, passphrase)
    targets = api.get_bytes("trust/targets")
    role = publisher.next_targets(
        targets, _targets_signers(api, held), revoked=[family], now=time.time()
    )
    send(api, targets=role)


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


def targets_signers(
    held: Mapping[str, Signer], threshold: int, named: Iterable[Key]
) -> list[Signer]:
    """Return enough keys to sign the list of families. Raises InputError if they are not here."""
    wanted = {key.keyid for key in named}
    found = [signer for signer in held.values() if signer.public_key.keyid in wanted]
    if len(found) < threshold:
        raise InputError(
            f"{threshold} targets keys must sign, and {len(found)} of those named are in this "
            "folder",
            hint="Fetch the others from their places; which they are says: shoal keys show.",
        )
    return found[:threshold]


def _targets_signers(api: Api, held: Mapping[str, Signer]) -> list[Signer]:
    return targets_signers(held, *publisher.root_keys(api.get_bytes("trust/root"))["targets"])


def _row(role: str, threshold: int, named: Iterable[Key]) -> dict[str, object]:
    return {"role": role, "threshold": threshold, "keys": [key.keyid for key in named]}


def send(api: Api, **change: bytes | Mapping[str, bytes]) -> None:
    """Hand in new roles; the control plane takes all of them or none."""
    body: dict[str, Any] = {
        name: value.decode()
        if isinstance(value, bytes)
        else {family: data.decode() for family, data in value.items()}
        for name, value in change.items()
    }
    api.post("trust/changes", json=body)
