"""The owners' key folder: encrypted private keys, and the signed beginning of trust.

Made once, whole or not at all. Whoever holds it owns the fleet's models; it belongs offline.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from firmware_bundles import durable
from firmware_bundles.errors import InputError
from firmware_bundles.identifiers import Family, parse
from firmware_bundles.trust import keys, publisher, roles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from firmware_bundles.trust.keys import Key, Signer

_TARGETS_KEYS_MAX: Final = 9
_PRIVATE_MODE: Final = 0o600
_NEXT_SUFFIX: Final = ".next.pem"
_ROOT_FILE: Final = "root.json"
_TARGETS_FILE: Final = "targets.json"
_DIRECTOR_FILE: Final = "director-keys.json"


class Beginning(NamedTuple):
    """The public files with which a control plane begins."""

    root: bytes
    targets: bytes
    director_keys: bytes
    families: Mapping[str, bytes]


def create(
    folder: Path,
    *,
    families: Sequence[str],
    online: Mapping[str, Key],
    passphrase: bytes,
    now: float,
    targets_keys: int = roles.TARGETS_KEYS,
    targets_threshold: int = roles.TARGETS_THRESHOLD,
) -> Beginning:
    """Make all keys, sign the first roles and write the folder. Raises InputError, OSError.

    `online` holds the control plane's public keys: snapshot, timestamp and director. Of
    `targets_keys` keys, `targets_threshold` must sign the list of families.
    """
    for family in families:
        parse(Family, family, "model family")
    if not families or len(set(families)) != len(families):
        raise InputError("name at least one model family, each once")
    if folder.exists():
        raise InputError(f"{folder} exists already", hint="Keys are made once; name a new folder.")
    if not 1 <= targets_threshold <= targets_keys <= _TARGETS_KEYS_MAX:
        raise InputError(
            f"{targets_threshold} of {targets_keys} targets keys cannot be asked to sign",
            hint=f"At most {_TARGETS_KEYS_MAX} keys, and no more signatures than keys.",
        )
    names = [*numbered("root", roles.ROOT_KEYS), *numbered("targets", targets_keys)]
    signers = {name: keys.generate() for name in (*names, *map(_family_key, families))}
    beginning = _sign(signers, families, online, targets_threshold, now)
    private = {
        f"{name}.pem": keys.encode_private(signer, passphrase) for name, signer in signers.items()
    }
    _write(folder, private, beginning)
    return beginning


def read_beginning(folder: Path) -> Beginning:
    """Return the public files of a folder. Raises OSError."""
    families = {path.stem: path.read_bytes() for path in sorted(folder.glob("family/*.json"))}
    return Beginning(
        root=(folder / _ROOT_FILE).read_bytes(),
        targets=(folder / _TARGETS_FILE).read_bytes(),
        director_keys=(folder / _DIRECTOR_FILE).read_bytes(),
        families=families,
    )


def signers(folder: Path, passphrase: bytes) -> dict[str, Signer]:
    """Return all private keys of a folder by name, successors left out. Raises InputError, OSError.

    Names are root-1 to root-3, targets-1 and so on, and family-NAME; keys that are kept elsewhere
    are not there.
    """
    return {
        path.stem: keys.decode_private(path.read_bytes(), passphrase, f"key file {path}")
        for path in sorted(folder.glob("*.pem"))
        if not path.name.endswith(_NEXT_SUFFIX)
    }


def successor(folder: Path, name: str, passphrase: bytes) -> Signer:
    """Return the key that shall follow `name`, made and written at the first call.

    An interrupted rotation goes on with it. Raises InputError, OSError.
    """
    path = folder / f"{name}{_NEXT_SUFFIX}"
    if not path.exists():
        durable.write(path, keys.encode_private(keys.generate(), passphrase), mode=_PRIVATE_MODE)
    return keys.decode_private(path.read_bytes(), passphrase, f"key file {path}")


def settle(folder: Path, name: str) -> None:
    """Put the successor in the place of `name`, after the control plane took it. Raises OSError."""
    (folder / f"{name}{_NEXT_SUFFIX}").replace(folder / f"{name}.pem")
    durable.sync_directory(folder)


def numbered(role: str, count: int) -> tuple[str, ...]:
    """Return the names of the keys of root or targets."""
    return tuple(f"{role}-{number}" for number in range(1, count + 1))


def family_name(family: str) -> str:
    """Return the name of a family's key. Raises Malformed."""
    return _family_key(parse(Family, family, "model family"))


def family_signer(folder: Path, family: str, passphrase: bytes) -> Signer:
    """Return the key of a family. Raises InputError, OSError."""
    parse(Family, family, "model family")
    path = folder / f"{_family_key(family)}.pem"
    if not path.exists():
        raise InputError(f"{folder} holds no key of the family {family}")
    return keys.decode_private(path.read_bytes(), passphrase, f"key file {path}")


def _family_key(family: str) -> str:
    return f"family-{family}"


def _sign(
    signers: Mapping[str, Signer],
    families: Sequence[str],
    online: Mapping[str, Key],
    targets_threshold: int,
    now: float,
) -> Beginning:
    director_keys = keys.encode_public_list([online["director"]])
    held = {
        role: [signer for name, signer in signers.items() if roles.role_of(name) == role]
        for role in ("root", "targets")
    }
    return Beginning(
        root=publisher.create_root(
            held["root"],
            targets_keys=[signer.public_key for signer in held["targets"]],
            targets_threshold=targets_threshold,
            snapshot_key=online["snapshot"],
            timestamp_key=online["timestamp"],
            now=now,
        ),
        targets=publisher.create_targets(
            held["targets"],
            families={family: signers[_family_key(family)].public_key for family in families},
            director_keys=director_keys,
            now=now,
        ),
        director_keys=director_keys,
        families={
            family: publisher.create_family(signers[_family_key(family)], now=now)
            for family in families
        },
    )


def _write(folder: Path, private: Mapping[str, bytes], beginning: Beginning) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in private.items():
            durable.write(temporary / name, data, mode=_PRIVATE_MODE)
        (temporary / "family").mkdir()
        for family, data in beginning.families.items():
            durable.write(temporary / "family" / f"{family}.json", data)
        durable.write(temporary / _ROOT_FILE, beginning.root)
        durable.write(temporary / _TARGETS_FILE, beginning.targets)
        durable.write(temporary / _DIRECTOR_FILE, beginning.director_keys)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    durable.sync_directory(folder.parent)
