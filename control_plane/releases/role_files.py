"""The files of a models repository by role: names, versions, and which keys may sign online.

Nothing is verified here. What is decided over the files stands in `changes` and `repository`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from firmware_bundles.errors import NotFound
from firmware_bundles.trust import keys, publisher, roles

if TYPE_CHECKING:
    from collections.abc import Mapping


def name_of(role: str, data: bytes) -> str:
    """Return the name under which a role's file is kept. Raises TrustError."""
    return roles.file_name(role, publisher.describe(data).version)


def role_file(files: Mapping[str, bytes], role: str) -> bytes:
    """Return the newest file of a role. Raises NotFound."""
    version = version_of(files, role)
    if version == 0:
        raise NotFound(f"the repository has no role {role!r:.40}")
    return files[roles.file_name(role, version)]


def version_of(files: Mapping[str, bytes], role: str) -> int:
    """Return the newest version of a role, 0 if there is none."""
    if role == "timestamp":
        data = files.get(roles.TIMESTAMP_FILE)
        return publisher.describe(data).version if data is not None else 0
    numbers = (
        name.removesuffix(f".{role}.json") for name in files if name.endswith(f".{role}.json")
    )
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def pop_version(files: dict[str, bytes], role: str) -> int:
    """Take the newest file of a role away; return its version, 0 if there was none."""
    version = version_of(files, role)
    files.pop(roles.file_name(role, version), None)
    return version


def next_version(present: int, now: float) -> int:
    """Return the version after `present` for a role that is signed online. Pure.

    Never below the time (Unix seconds): a control plane that was restored from a backup does not
    know what the lost one signed since, and devices take no older version.
    """
    return max(present + 1, int(now))


def online_keyids(files: Mapping[str, bytes]) -> dict[str, set[str]]:
    """Return the ids of the keys that may sign online, by role."""
    named = publisher.root_keys(role_file(files, "root"))
    directors = keys.parse_public_list(files[roles.DIRECTOR_KEYS_PATH])
    return {
        "snapshot": {key.keyid for key in named["snapshot"][1]},
        "timestamp": {key.keyid for key in named["timestamp"][1]},
        "director": {key.keyid for key in directors},
    }


def listed_roles(files: Mapping[str, bytes]) -> set[str]:
    """Return the roles that a snapshot lists: no role ever leaves it (TUF 5.5.5)."""
    found = {name.split(".", 1)[1].removesuffix(".json") for name in files if name[:1].isdigit()}
    return found - {"root", "snapshot"}


def all_roots(files: Mapping[str, bytes]) -> list[bytes]:
    """Return all roots, the one with which the repository began first."""
    names = sorted((name for name in files if name.endswith(".root.json")), key=_number)
    return [files[name] for name in names]


def first_root(files: Mapping[str, bytes]) -> bytes:
    """Return the root with which the repository began."""
    return all_roots(files)[0]


def _number(name: str) -> int:
    return int(name.split(".", 1)[0])
