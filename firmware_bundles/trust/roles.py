"""Who may say what: the roles of the models repository, their files, lifetimes and terms.

Names and shapes follow the TUF specification 1.0; how roles are signed stands in `publisher`, how
they are checked in `verifier`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from tuf.api.metadata import DelegatedRole, Delegations, Key, Root, Signed, TargetFile, Targets

from firmware_bundles import limits
from firmware_bundles.errors import InputError, TrustError
from firmware_bundles.identifiers import Digest, TargetPath

ROOT_KEYS: Final = 3
ROOT_THRESHOLD: Final = 2
TARGETS_KEYS: Final = 3
TARGETS_THRESHOLD: Final = 2
TIMESTAMP_FILE: Final = "timestamp.json"
DIRECTOR_KEYS_PATH: Final = "director/keys.json"
TERMS_FIELD: Final = "shoal"
ISSUED_FIELD: Final = "issued"
RESERVED_NAMES: Final = frozenset({"root", "targets", "snapshot", "timestamp", "director"})

_DAY_S: Final = 86400
LIFE_S: Final[dict[str, int]] = {
    "root": 730 * _DAY_S,
    "targets": 365 * _DAY_S,
    "family": 365 * _DAY_S,
    "snapshot": 30 * _DAY_S,
    "timestamp": 3 * _DAY_S,
}

KindT = TypeVar("KindT")
ReleaseNumber = Annotated[int, Meta(ge=1, lt=2**31)]


class ReleaseFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A release as its owners listed it; `number` grows by one with each release of a family."""

    path: TargetPath
    digest: Digest
    length: Annotated[int, Meta(ge=1, le=limits.MANIFEST_BYTES_MAX)]
    number: ReleaseNumber


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What the owners of a family no longer allow."""

    min_release: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    withdrawn: tuple[TargetPath, ...] = ()


def file_name(role: str, version: int) -> str:
    """Return the name of a role's file in a repository with consistent snapshots (TUF 6.2)."""
    return TIMESTAMP_FILE if role == "timestamp" else f"{version}.{role}.json"


def time_of(unix_s: float) -> datetime:
    """Return a time as TUF writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(unix_s), tz=UTC)


def expiry(role: str, now: float) -> datetime:
    """Return when metadata of `role` signed now expires; a role not of the top is a family's."""
    return time_of(now + LIFE_S.get(role, LIFE_S["family"]))


def issued_at(signed: Signed) -> float:
    """Return when a verified role says that it was signed, 0 if it does not say so."""
    issued = signed.unrecognized_fields.get(ISSUED_FIELD)
    if isinstance(issued, bool) or not isinstance(issued, int):
        return 0.0
    return float(issued) if 0 <= issued < signed.expires.timestamp() else 0.0


def set_issued(signed: Signed, now: float) -> None:
    """Write when a role is signed into it: TUF itself only tells when it ends."""
    signed.unrecognized_fields[ISSUED_FIELD] = int(now)


def empty_root() -> Root:
    """Return a root without keys: consistent snapshots, and the thresholds of this project."""
    root = Root(version=1, consistent_snapshot=True)
    root.roles["root"].threshold = ROOT_THRESHOLD
    return root


def family_delegation(family: str) -> DelegatedRole:
    """Return the delegation of one family: only it speaks for its paths, and for no others."""
    return DelegatedRole(
        name=family, keyids=[], threshold=1, terminating=True, paths=[f"{family}/*/*"]
    )


def role_of(name: str) -> str | None:
    """Return the role of an owners' key called root-1, targets-2 and so on, else None."""
    role, _, number = name.rpartition("-")
    return role if role in {"root", "targets"} and number.isdecimal() else None


def delegate_families(targets: Targets, families: dict[str, Key]) -> None:
    """Give each family its role and key. Raises InputError for a name that TUF or a key has."""
    if taken := sorted(name for name in families if name in RESERVED_NAMES or role_of(name)):
        raise InputError(f"a family cannot be called {taken[0]!r}: that name is in use")
    targets.delegations = Delegations(
        keys={}, roles={family: family_delegation(family) for family in families}
    )
    for family, key in families.items():
        targets.add_key(key, family)


def families_of(targets: Targets) -> tuple[str, ...]:
    """Return the families that the top-level targets role delegates to."""
    return tuple(targets.delegations.roles or ()) if targets.delegations else ()


def release_target(path: str, manifest: bytes, number: int) -> TargetFile:
    """Return the entry that makes `manifest` a release."""
    target = TargetFile.from_data(path, manifest, ["sha256"])
    target.unrecognized_fields["custom"] = {"release": number}
    return target


def release_facts(target: TargetFile) -> ReleaseFacts:
    """Return what an entry of a family role says. Raises TrustError if it is no release."""
    custom: Any = target.custom or {}
    document = {
        "path": target.path,
        "digest": target.hashes.get("sha256"),
        "length": target.length,
        "number": custom.get("release") if isinstance(custom, dict) else None,
    }
    return _convert(document, ReleaseFacts, f"target {target.path!r:.120}")


def terms_of(role: Targets) -> Floor:
    """Return the floor that a family role carries. Raises TrustError."""
    return _convert(role.unrecognized_fields.get(TERMS_FIELD, {}), Floor, "the release floor")


def set_terms(role: Targets, floor: Floor) -> None:
    """Write the floor into a family role, under its signature."""
    role.unrecognized_fields[TERMS_FIELD] = msgspec.to_builtins(floor)


def _convert(document: object, kind: type[KindT], what: str) -> KindT:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise TrustError(f"{what} in signed metadata cannot be used: {error}") from error
