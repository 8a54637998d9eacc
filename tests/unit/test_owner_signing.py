"""What owners sign: the next role of their family, and the folder that holds their keys."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from firmware_bundles.errors import (
    ConflictError,
    InputError,
    Malformed,
    SignatureInvalid,
    TrustError,
)
from firmware_bundles.trust import key_folder, keys, publisher
from support.owners import MANIFEST, NOW, Owners, signer

ONLINE = {
    name: signer(place).public_key
    for place, name in enumerate(("snapshot", "timestamp", "director"), 1)
}
PASSPHRASE = b"correct horse"


def test_releases_are_numbered_and_listed() -> None:
    """Each release gets the next number; older ones stay."""
    owners = Owners()
    owners.publish("1")
    role = owners.publish("1.1", b"{}", min_release=1, withdraw=("digits/1/manifest.json",))
    assert {path: facts.number for path, facts in publisher.releases_in(role).items()} == {
        "digits/1/manifest.json": 1,
        "digits/1.1/manifest.json": 2,
    }
    floor = publisher.floor_in(role)
    assert (floor.min_release, floor.withdrawn) == (1, ("digits/1/manifest.json",))
    assert publisher.describe(role).version == 3


def test_the_floor_only_rises() -> None:
    """An owner cannot lower it by mistake, nor set it above what exists."""
    owners = Owners()
    owners.publish("1")
    owners.publish("2", b"{}", min_release=2)
    for wrong in (1, 4):
        with pytest.raises(InputError, match="--min-release"):
            owners.publish("3", b"[]", min_release=wrong)


def test_a_release_is_published_once() -> None:
    """A path is never signed for a second manifest."""
    owners = Owners()
    owners.publish("1")
    with pytest.raises(ConflictError, match="exists already"):
        owners.publish("1", b"other")


def test_an_owner_extends_only_its_own_role() -> None:
    """A role that a server made up is not signed on, however it looks."""
    foreign = Owners(seed=5000)
    foreign.publish("1")
    with pytest.raises(SignatureInvalid):
        publisher.add_release(
            foreign.roles["digits"],
            Owners().signers["digits"],
            path="digits/2/manifest.json",
            manifest=MANIFEST,
            now=NOW,
        )


@pytest.mark.parametrize("name", ["root", "targets", "snapshot", "timestamp", "director"])
def test_a_family_cannot_take_a_roles_name(name: str) -> None:
    """Names that the repository needs itself are refused."""
    with pytest.raises(InputError, match=name):
        Owners(families=(name,))


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 50_000, b"x" * 70_000, b'{"signed":1}'])
def test_what_is_no_role_is_refused(data: bytes) -> None:
    """Bytes from a server end in an error of trust."""
    with pytest.raises(TrustError):
        publisher.describe(data)


@pytest.mark.parametrize(
    "document", [None, [], {}, {"keyid": "x"}, {"keyid": 1, "keytype": 2, "scheme": 3, "keyval": 4}]
)
def test_what_is_no_public_key_is_refused(document: object) -> None:
    """A key from a server is parsed or refused."""
    with pytest.raises(Malformed):
        keys.parse_public(document)


def test_a_key_folder_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    """Private keys are encrypted, readable by their owner only, and come back as they were."""
    folder = tmp_path / "keys"
    beginning = key_folder.create(
        folder, families=["digits"], online=ONLINE, passphrase=PASSPHRASE, now=NOW
    )
    assert key_folder.read_beginning(folder) == beginning
    private = sorted(folder.glob("*.pem"))
    assert [path.stem for path in private] == [
        "family-digits", "root-1", "root-2", "root-3", "targets-1", "targets-2", "targets-3",
    ]  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    role = publisher.add_release(
        beginning.families["digits"],
        key_folder.family_signer(folder, "digits", PASSPHRASE),
        path="digits/1/manifest.json",
        manifest=MANIFEST,
        now=NOW,
    )
    assert publisher.releases_in(role)["digits/1/manifest.json"].number == 1
    with pytest.raises(InputError, match="passphrase"):
        key_folder.family_signer(folder, "digits", b"wrong horse")
    with pytest.raises(InputError, match="no key of the family audio"):
        key_folder.family_signer(folder, "audio", PASSPHRASE)


def test_keys_are_made_once(tmp_path: Path) -> None:
    """An existing folder is never written over."""
    with pytest.raises(InputError, match="exists already"):
        key_folder.create(
            tmp_path, families=["digits"], online=ONLINE, passphrase=PASSPHRASE, now=NOW
        )
