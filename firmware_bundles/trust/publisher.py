"""The signing side of trust: what owners and the control plane write into the models repository.

Bytes in, bytes out: keys, files and the network are the caller's. Root, targets and families are
signed offline by the owners, snapshot and timestamp online (TUF specification 1.0, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from securesystemslib.exceptions import UnverifiedSignatureError
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from firmware_bundles import limits
from firmware_bundles.errors import ConflictError, InputError, SignatureInvalid, TrustError
from firmware_bundles.trust import roles
from firmware_bundles.wire import repository_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from firmware_bundles.trust.keys import Key, Signer
    from firmware_bundles.trust.roles import Floor, ReleaseFacts

RoleT = TypeVar("RoleT", Root, Timestamp, Snapshot, Targets)
_SERIALIZER: Final = JSONSerializer(compact=True)


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a role's file says of itself, not verified."""

    role: str
    version: int
    expires: float


def describe(data: bytes) -> Description:
    """Read a role's file without checking signatures. Raises TrustError."""
    signed = _read(data).signed
    return Description(role=signed.type, version=signed.version, expires=signed.expires.timestamp())


def create_root(
    root_signers: Sequence[Signer],
    *,
    targets_keys: Sequence[Key],
    targets_threshold: int,
    snapshot_key: Key,
    timestamp_key: Key,
    now: float,
) -> bytes:
    """Return the first root: ROOT_KEYS keys of which ROOT_THRESHOLD must sign its successor.

    Of `targets_keys`, `targets_threshold` must sign the list of families. Raises InputError.
    """
    if not 1 <= targets_threshold <= len(targets_keys):
        raise InputError(
            f"{targets_threshold} of {len(targets_keys)} targets keys cannot be asked to sign"
        )
    assert len(root_signers) == roles.ROOT_KEYS
    root = roles.empty_root()
    root.expires = roles.expiry("root", now)
    for signer in root_signers:
        root.add_key(signer.public_key, "root")
    for key in targets_keys:
        root.add_key(key, "targets")
    root.roles["targets"].threshold = targets_threshold
    root.add_key(snapshot_key, "snapshot")
    root.add_key(timestamp_key, "timestamp")
    return _sign(root, root_signers)


def next_root(
    current: bytes, signers: Sequence[Signer], *, keys: Mapping[str, Sequence[Key]], now: float
) -> bytes:
    """Return the root after `current`, with the keys of the roles in `keys` replaced.

    Enough of the former root keys and enough of the new ones must sign (TUF 5.3.4). Raises
    SignatureInvalid if `signers` are too few, TrustError, InputError.
    """
    former = _root(current)
    root = _root(current)
    for role, wanted in keys.items():
        for keyid in list(root.roles[role].keyids):
            root.revoke_key(keyid, role)
        for key in wanted:
            root.add_key(key, role)
    root.version += 1
    root.expires = roles.expiry("root", now)
    data = _sign(root, signers)
    for delegator in (former, root):
        _check_signed(delegator, "root", data)
    return data


def next_targets(
    current: bytes,
    signers: Sequence[Signer],
    *,
    now: float,
    families: Mapping[str, Key] | None = None,
    revoked: Iterable[str] = (),
    director_keys: bytes | None = None,
) -> bytes:
    """Return the targets role after `current`: families added or given new keys, others revoked.

    Raises InputError for a family that is not there to be revoked, TrustError.
    """
    role = _targets(current)
    named = family_keys(current)
    for family in revoked:
        if family not in named:
            raise InputError(f"the owners delegate to no family {family!r:.40}")
        del named[family]
    roles.delegate_families(role, {**named, **(families or {})})
    if director_keys is not None:
        path = roles.DIRECTOR_KEYS_PATH
        role.targets[path] = TargetFile.from_data(path, director_keys, ["sha256"])
    role.version += 1
    role.expires = roles.expiry("targets", now)
    return _sign(role, signers)


def next_terms(
    current: bytes,
    signer: Signer,
    *,
    now: float,
    former: Key | None = None,
    min_release: int | None = None,
    withdraw: Iterable[str] = (),
) -> bytes:
    """Return a family's next role with the same releases and a higher floor.

    `former` is the key that signed `current`, if it is another. Raises SignatureInvalid,
    InputError.
    """
    role = _own_role(current, former or signer.public_key)
    newest = max((facts.number for facts in _releases(role).values()), default=0)
    _raise_floor(role, newest, min_release, withdraw)
    role.version += 1
    role.expires = roles.expiry("family", now)
    return _sign(role, [signer])


def root_keys(root: bytes) -> dict[str, tuple[int, tuple[Key, ...]]]:
    """Return threshold and keys of each role that a root names, not verified. Raises TrustError."""
    signed = _root(root)
    try:
        return {
            name: (role.threshold, tuple(signed.keys[keyid] for keyid in role.keyids))
            for name, role in signed.roles.items()
        }
    except KeyError as error:
        raise TrustError(f"the root names the key {error} and does not hold it") from error


def family_keys(targets: bytes) -> dict[str, Key]:
    """Return the key of each family, not verified. Raises TrustError."""
    role = _targets(targets)
    return {name: _family_key(role, name) for name in roles.families_of(role)}


def create_targets(
    signers: Sequence[Signer], *, families: Mapping[str, Key], director_keys: bytes, now: float
) -> bytes:
    """Return the first targets role: a delegation for each family, and who may direct devices."""
    targets = Targets(version=1, expires=roles.expiry("targets", now))
    roles.delegate_families(targets, dict(families))
    path = roles.DIRECTOR_KEYS_PATH
    targets.targets[path] = TargetFile.from_data(path, director_keys, ["sha256"])
    return _sign(targets, signers)


def create_family(signer: Signer, *, now: float) -> bytes:
    """Return a family's first role: no releases yet."""
    role = Targets(version=1, expires=roles.expiry("family", now))
    roles.set_terms(role, roles.Floor())
    return _sign(role, [signer])


def add_release(
    current: bytes,
    signer: Signer,
    *,
    path: str,
    manifest: bytes,
    now: float,
    min_release: int | None = None,
    withdraw: Iterable[str] = (),
) -> bytes:
    """Return a family's next role, with `manifest` as one more release.

    `current` came from elsewhere: it is extended only if this signer signed it. Raises
    SignatureInvalid, ConflictError (path already taken), InputError.
    """
    role = _own_role(current, signer.public_key)
    if path in role.targets:
        raise ConflictError(
            f"release {path} exists already", hint="Build the bundle with a new --version."
        )
    number = 1 + max((facts.number for facts in _releases(role).values()), default=0)
    role.targets[path] = roles.release_target(path, manifest, number)
    _raise_floor(role, number, min_release, withdraw)
    role.version += 1
    role.expires = roles.expiry("family", now)
    return _sign(role, [signer])


def create_snapshot(
    signer: Signer, *, version: int, files: Mapping[str, bytes], now: float
) -> bytes:
    """Return a snapshot over the current file of each role, by role name, targets among them."""
    meta = {f"{role}.json": _meta_file(data) for role, data in files.items()}
    role = Snapshot(version, expires=roles.expiry("snapshot", now), meta=meta)
    roles.set_issued(role, now)
    return _sign(role, [signer])


def create_timestamp(signer: Signer, *, version: int, snapshot: bytes, now: float) -> bytes:
    """Return a timestamp over the current snapshot."""
    expires = roles.expiry("timestamp", now)
    role = Timestamp(version, expires=expires, snapshot_meta=_meta_file(snapshot))
    roles.set_issued(role, now)
    return _sign(role, [signer])


def families_in(targets: bytes) -> tuple[str, ...]:
    """Return the families that a targets role delegates to, not verified. Raises TrustError."""
    return roles.families_of(_targets(targets))


def releases_in(family_role: bytes) -> dict[str, ReleaseFacts]:
    """Return the releases that a family's role lists, not verified. Raises TrustError."""
    return _releases(_targets(family_role))


def floor_in(family_role: bytes) -> Floor:
    """Return what a family's role no longer allows, not verified. Raises TrustError."""
    return roles.terms_of(_targets(family_role))


def _family_key(role: Targets, family: str) -> Key:
    assert role.delegations is not None
    assert role.delegations.roles is not None
    keyids = role.delegations.roles[family].keyids
    if len(keyids) != 1:
        raise TrustError(f"family {family!r:.40} has {len(keyids)} keys, one was expected")
    (keyid,) = keyids
    if keyid not in role.delegations.keys:
        raise TrustError(f"family {family!r:.40} has a key that the role does not hold")
    return role.delegations.keys[keyid]


def _root(data: bytes) -> Root:
    signed = _read(data).signed
    if not isinstance(signed, Root):
        raise TrustError(f"a file that should hold a root holds {signed.type!r}")
    return signed


def _check_signed(delegator: Root, role: str, data: bytes) -> None:
    metadata = _read(data)
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError as error:
        raise SignatureInvalid(
            f"the next {role} is signed by too few of the keys that must: {error}",
            hint="Former and new root keys must sign; see which: shoal keys show.",
        ) from error


def _own_role(data: bytes, key: Key) -> Targets:
    metadata = _read(data)
    try:
        payload = metadata.signed_bytes
        key.verify_signature(metadata.signatures[key.keyid], payload)
    except (KeyError, UnverifiedSignatureError) as error:
        raise SignatureInvalid(
            "the role that the server holds was not signed by this family's key",
            hint="Do not extend it. Is this the right --keys folder?",
        ) from error
    return _targets(data)


def _raise_floor(
    role: Targets, newest: int, min_release: int | None, withdraw: Iterable[str]
) -> None:
    floor = roles.terms_of(role)
    if min_release is not None and not floor.min_release <= min_release <= newest:
        raise InputError(
            f"--min-release {min_release} is not between the present floor "
            f"{floor.min_release} and the newest release {newest}"
        )
    wanted = set(withdraw)
    if unknown := sorted(wanted - set(role.targets)):
        raise InputError(f"release {unknown[0]!r:.140} cannot be withdrawn: it is not listed")
    roles.set_terms(
        role,
        msgspec.structs.replace(
            floor,
            min_release=floor.min_release if min_release is None else min_release,
            withdrawn=tuple(sorted({*floor.withdrawn, *wanted})),
        ),
    )


def _releases(role: Targets) -> dict[str, ReleaseFacts]:
    return {path: roles.release_facts(target) for path, target in role.targets.items()}


def _targets(data: bytes) -> Targets:
    signed = _read(data).signed
    if not isinstance(signed, Targets):
        raise TrustError(f"a file that should hold a targets role holds {signed.type!r}")
    return signed


def _read(data: bytes) -> Metadata[Any]:
    if len(data) > limits.TARGETS_BYTES_MAX:
        raise TrustError(f"a repository file has {len(data)} bytes, too many")
    try:
        return Metadata.from_bytes(data)
    except (DeserializationError, RepositoryError, RecursionError) as error:
        raise TrustError(f"a repository file cannot be read: {error!s:.300}") from error


def _meta_file(data: bytes) -> MetaFile:
    return MetaFile.from_data(describe(data).version, data, ["sha256"])


def _sign(signed: RoleT, signers: Iterable[Signer]) -> bytes:
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    data = metadata.to_bytes(_SERIALIZER)
    most = repository_files.bytes_max(f"{signed.type}.json")
    if len(data) > most:
        raise InputError(
            f"the role would have {len(data)} bytes; devices take at most {most}",
            hint="Fewer releases fit one family: begin another one.",
        )
    return data
