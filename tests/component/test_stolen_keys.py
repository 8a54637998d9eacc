"""What each stolen key is good for, judged by the code that devices judge with.

Real keys, real metadata and envelopes; the thief holds what a case says he holds, and signs with it
what he likes. The same at a running fleet stands in the system suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from firmware_bundles.chunks import digest_of
from firmware_bundles.errors import (
    AssignmentForeign,
    AssignmentReplayed,
    DigestMismatch,
    ReleaseBelowFloor,
    ReleaseUnknown,
    ReleaseWithdrawn,
    RollbackAttempt,
    SignatureInvalid,
    TrustError,
)
from firmware_bundles.trust import keys, publisher, roles, verifier
from firmware_bundles.wire.messages import ModelReference, Order
from support.owners import MANIFEST, NOW, Owners, signer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from firmware_bundles.trust.keys import Signer
    from firmware_bundles.trust.verifier import Repository

EVIL = b'{"model":"of the thief"}'


class Device:
    """A device that has verified the owners' repository once, with a cache and floors."""

    def __init__(self, owners: Owners, cache: Path) -> None:
        self._anchor = owners.root
        self._cache = cache
        self.repository = self._refresh(owners.seal())

    def refresh(self, files: dict[str, bytes]) -> Repository:
        """Take files as they come from the broker. Raises what a device detects."""
        self.repository = self._refresh(files, self.repository)
        return self.repository

    def _refresh(self, files: dict[str, bytes], known: Repository | None = None) -> Repository:
        marks = known.marks if known else {}
        return verifier.refresh(self._cache, self._anchor, files, NOW, marks)

    def admit(self, envelope: bytes, device: str = "dev-1") -> list[str]:
        """Return the paths that an assignment lets the device install. Raises TrustError."""
        admitted = verifier.admit(
            self.repository, envelope, device=device, generations={}, nonce=None, now=NOW
        )
        return [order.model.path for order in admitted.orders]


@pytest.fixture
def owners() -> Owners:
    """Two families; of digits 1 lies below the floor and 2 is withdrawn."""
    owners = Owners(families=("digits", "audio"))
    owners.publish("1")
    owners.publish("2")
    owners.publish("3", min_release=2, withdraw=("digits/2/manifest.json",))
    owners.publish("1", family="audio")
    return owners


@pytest.fixture
def device(owners: Owners, tmp_path: Path) -> Device:
    """A device that knows all of it."""
    return Device(owners, tmp_path / "cache")


def unsigned(owners: Owners) -> Order:
    """An order for a model that no owner signed, under a path of its own."""
    order = owners.order("3")
    model = ModelReference(path="digits/9/manifest.json", digest=digest_of(EVIL), length=len(EVIL))
    return msgspec.structs.replace(order, model=model)


def exchanged(owners: Owners) -> Order:
    """An order that gives the name of a signed release to other bytes."""
    order = owners.order("3")
    model = msgspec.structs.replace(order.model, digest=digest_of(EVIL), length=len(EVIL))
    return msgspec.structs.replace(order, model=model)


def of_another_family(owners: Owners) -> Order:
    """An order that brings one family's release to the other."""
    return msgspec.structs.replace(owners.order("1", family="audio"), family="digits")


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (unsigned, ReleaseUnknown),
        (exchanged, DigestMismatch),
        (of_another_family, ReleaseUnknown),
        (lambda owners: owners.order("2"), ReleaseWithdrawn),
        (lambda owners: owners.order("1"), ReleaseBelowFloor),
    ],
    ids=["unsigned", "exchanged", "of_another_family", "withdrawn", "below_the_floor"],
)
def test_a_stolen_director_key_installs_only_what_owners_allow(
    owners: Owners, device: Device, make: Callable[[Owners], Order], refusal: type[TrustError]
) -> None:
    """Its signature is good and does not help; what owners allow goes through."""
    with pytest.raises(refusal):
        device.admit(owners.assignment(make(owners)))
    assert device.admit(owners.assignment(owners.order("3"))) == ["digits/3/manifest.json"]


def test_an_assignment_serves_one_device(owners: Owners, device: Device) -> None:
    """Who recorded another device's envelope gains nothing, and cannot change the name in it."""
    for_other = owners.assignment(owners.order("3"), device="dev-2")
    with pytest.raises(AssignmentForeign):
        device.admit(for_other, device="dev-1")
    assert device.admit(for_other, device="dev-2") == ["digits/3/manifest.json"]


def test_a_stolen_director_key_brings_no_generation_back(owners: Owners, device: Device) -> None:
    """A generation that the device has passed stays passed, whoever signs."""
    envelope = owners.assignment(owners.order("3", generation=4))
    with pytest.raises(AssignmentReplayed):
        verifier.admit(
            device.repository,
            envelope,
            device="dev-1",
            generations={"digits": 5},
            nonce=None,
            now=NOW,
        )


def test_a_stolen_director_key_ends_with_its_rotation(owners: Owners, device: Device) -> None:
    """The owners' next list names another; the thief's assignments are refused from then on."""
    stolen = owners.assignment(owners.order("3"))
    fresh = signer(77)
    owners.director_keys = keys.encode_public_list([fresh.public_key])
    owners.roles["targets"] = publisher.next_targets(
        owners.roles["targets"],
        [owners.signers["targets"]],
        director_keys=owners.director_keys,
        now=NOW,
    )
    device.refresh(owners.seal())
    with pytest.raises(SignatureInvalid):
        device.admit(stolen)


def test_a_stolen_family_key_touches_no_other_family(owners: Owners, device: Device) -> None:
    """In another family's role its signature counts for nothing; its own family goes on."""
    thief = owners.signers["digits"]
    before = device.repository.releases["audio"]
    owners.roles["audio"] = successor(owners.roles["audio"], thief, "audio/9/manifest.json")
    repository = device.refresh(owners.seal())
    with pytest.raises(SignatureInvalid):
        repository.release("audio/1/manifest.json")
    assert repository.release("digits/3/manifest.json").number == 3
    assert "audio/9/manifest.json" not in before


def test_a_stolen_family_key_lists_no_path_of_another(owners: Owners, device: Device) -> None:
    """A path outside of its own delegation spoils its role, and nothing else."""
    owners.roles["digits"] = publisher.add_release(
        owners.roles["digits"],
        owners.signers["digits"],
        path="audio/9/manifest.json",
        manifest=EVIL,
        now=NOW,
    )
    repository = device.refresh(owners.seal())
    assert repository.release("audio/1/manifest.json").number == 1
    with pytest.raises(ReleaseUnknown):
        repository.release("audio/9/manifest.json")
    with pytest.raises(TrustError):
        repository.release("digits/3/manifest.json")


def test_one_stolen_root_key_of_three_changes_nothing(owners: Owners, device: Device) -> None:
    """A root that it signs alone is refused, and no role under it counts."""
    thief, own = owners.signers["root-1"], signer(78)
    with pytest.raises(SignatureInvalid):
        publisher.next_root(owners.root, [thief], keys={"targets": [own.public_key]}, now=NOW)
    forged = unchecked_root(owners.root, [thief], own)
    files = owners.seal() | {"2.root.json": forged}
    with pytest.raises(SignatureInvalid):
        device.refresh(files)
    assert device.refresh(owners.seal()).versions["root"] == 1


def test_one_stolen_root_key_helps_no_other_stolen_key(owners: Owners, device: Device) -> None:
    """Together with every online key and the targets key it still makes no root."""
    thief, own = owners.signers["root-2"], signer(79)
    held = [thief, *(owners.signers[name] for name in ("targets", "snapshot", "timestamp"))]
    with pytest.raises(SignatureInvalid):
        device.refresh(owners.seal() | {"2.root.json": unchecked_root(owners.root, held, own)})


@pytest.mark.parametrize("role", ["digits", "targets"])
def test_stolen_snapshot_and_timestamp_keys_add_no_model(
    owners: Owners, device: Device, role: str
) -> None:
    """They say which versions are newest; a role that its owners did not sign is refused."""
    own = signer(80)
    if role == "digits":
        owners.roles["digits"] = successor(owners.roles["digits"], own, "digits/9/manifest.json")
        with pytest.raises(SignatureInvalid):
            device.refresh(owners.seal()).release("digits/9/manifest.json")
    else:
        owners.roles["targets"] = publisher.next_targets(
            owners.roles["targets"], [own], families={"digits": own.public_key}, now=NOW
        )
        with pytest.raises(SignatureInvalid):
            device.refresh(owners.seal())


def test_stolen_snapshot_and_timestamp_keys_bring_nothing_back(
    owners: Owners, device: Device
) -> None:
    """An older role of the owners, under a newer snapshot, is refused: a floor does not sink."""
    newer = owners.roles["digits"]
    owners.publish("4", min_release=4)
    device.refresh(owners.seal())
    owners.roles["digits"] = newer
    with pytest.raises(RollbackAttempt):
        device.refresh(owners.seal())
    with pytest.raises(ReleaseBelowFloor):
        device.admit(owners.assignment(owners.order("3")))


def test_two_stolen_root_keys_are_the_root_until_the_owners_act(
    owners: Owners, device: Device
) -> None:
    """The limit of it all, stated: two of three make any root, so they lie in different places."""
    own = signer(81)
    thieves = [owners.signers["root-1"], owners.signers["root-2"]]
    owners.roots.append(
        publisher.next_root(owners.root, thieves, keys={"targets": [own.public_key]}, now=NOW)
    )
    owners.roles["targets"] = publisher.next_targets(
        owners.roles["targets"], [own], families={"digits": own.public_key}, now=NOW
    )
    assert device.refresh(owners.seal()).versions["root"] == 2


def successor(role: bytes, thief: Signer, path: str) -> bytes:
    """Return a role of the next version that a thief signs, with a release of his own."""
    version = publisher.describe(role).version
    forged = publisher.create_family(thief, now=NOW)
    for number in range(version - 1):
        filler = filler_path(path, number)
        forged = publisher.add_release(forged, thief, path=filler, manifest=MANIFEST, now=NOW)
    forged = publisher.add_release(forged, thief, path=path, manifest=EVIL, now=NOW)
    assert publisher.describe(forged).version == version + 1
    return forged


def filler_path(path: str, number: int) -> str:
    """Return one more path of the same family."""
    return f"{path.split('/', 1)[0]}/filler-{number}/manifest.json"


def unchecked_root(current: bytes, held: Sequence[Signer], own: Signer) -> bytes:
    """Return the next root with the thief's key for targets, signed by all that he holds."""
    root = publisher._root(current)
    for keyid in list(root.roles["targets"].keyids):
        root.revoke_key(keyid, "targets")
    root.add_key(own.public_key, "targets")
    root.version += 1
    root.expires = roles.expiry("root", NOW)
    return publisher._sign(root, held)
