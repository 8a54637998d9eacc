"""What a device makes of the repository's files and of assignments, whole and under attack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_bundles import chunks
from firmware_bundles.errors import (
    AssignmentExpired,
    AssignmentForeign,
    AssignmentReplayed,
    DigestMismatch,
    MetadataExpired,
    MetadataMissing,
    ReleaseBelowFloor,
    ReleaseUnknown,
    ReleaseWithdrawn,
    RollbackAttempt,
    ShoalError,
    SignatureInvalid,
    TrustError,
)
from firmware_bundles.trust import publisher, roles, verifier
from firmware_bundles.wire.messages import Assignment, Order
from support.owners import MANIFEST, NOW, Owners, signer

DAY_S = 86400
NONCE = "ab" * 16


@pytest.fixture
def owners() -> Owners:
    """A repository with the releases 1 and 2."""
    owners = Owners()
    owners.publish("1")
    owners.publish("2", MANIFEST + b" ")
    return owners


def refresh(
    cache: Path, owners: Owners, files: Mapping[str, bytes], now: float = NOW
) -> verifier.Repository:
    """Refresh with the owners' first root as the device's anchor."""
    return verifier.refresh(cache / "trust", owners.root, files, now)


def admit(repository: verifier.Repository, envelope: bytes, **changes: object) -> Assignment:
    """Admit for a device that has seen nothing yet, but for what is given."""
    facts: dict[str, object] = {"device": "dev-1", "generations": {}, "nonce": NONCE, "now": NOW}
    return verifier.admit(repository, envelope, **(facts | changes))  # type: ignore[arg-type]


def test_a_good_repository_tells_releases_floor_versions_and_directors(
    tmp_path: Path, owners: Owners
) -> None:
    """All that a device needs to know comes out of verified files."""
    repository = refresh(tmp_path, owners, owners.seal())
    release = repository.release("digits/1/manifest.json")
    assert (release.digest, release.length, release.number) == (
        chunks.digest_of(MANIFEST),
        len(MANIFEST),
        1,
    )
    assert repository.versions == {
        "root": 1,
        "timestamp": 1,
        "snapshot": 1,
        "targets": 1,
        "digits": 3,
    }
    assert repository.floor("digits").min_release == 0
    assert [key.keyid for key in repository.directors] == [
        owners.signers["director"].public_key.keyid
    ]


def test_a_newer_repository_follows_an_older_one(tmp_path: Path, owners: Owners) -> None:
    """The cache of one refresh is where the next one begins."""
    refresh(tmp_path, owners, owners.seal())
    owners.publish("3", b"{}")
    assert refresh(tmp_path, owners, owners.seal()).release("digits/3/manifest.json").number == 3


def test_an_unlisted_release_is_unknown(tmp_path: Path, owners: Owners) -> None:
    """Only what the owners list is a release, and only in families they delegate to."""
    repository = refresh(tmp_path, owners, owners.seal())
    for path in ("digits/9/manifest.json", "audio/1/manifest.json"):
        with pytest.raises(ReleaseUnknown):
            repository.release(path)


def test_foreign_keys_are_refused(tmp_path: Path, owners: Owners) -> None:
    """A whole repository signed by somebody else's keys is no repository of this root."""
    files = Owners(seed=5000).seal()
    with pytest.raises(SignatureInvalid):
        refresh(tmp_path, owners, files)


def test_a_replayed_repository_is_refused(tmp_path: Path, owners: Owners) -> None:
    """What was true once is refused after something newer was seen."""
    old = owners.seal()
    owners.publish("3", b"{}")
    refresh(tmp_path, owners, owners.seal())
    with pytest.raises(RollbackAttempt):
        refresh(tmp_path, owners, old)


def test_mixed_snapshots_are_refused(tmp_path: Path, owners: Owners) -> None:
    """An old snapshot under a new timestamp's name does not pass (mix and match)."""
    old, new = owners.seal(), owners.seal()
    with pytest.raises(DigestMismatch):
        refresh(tmp_path, owners, {**new, "2.snapshot.json": old["1.snapshot.json"]})


@pytest.mark.parametrize(("days", "role"), [(4, "timestamp"), (31, "snapshot"), (400, "targets")])
def test_expired_metadata_is_refused(tmp_path: Path, owners: Owners, days: int, role: str) -> None:
    """Each role ends; the time is the caller's, not this machine's."""
    with pytest.raises(MetadataExpired):
        refresh(tmp_path, owners, owners.seal(), NOW + days * DAY_S)


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
def test_a_missing_file_is_a_matter_of_transfer(tmp_path: Path, owners: Owners, name: str) -> None:
    """What was not collected is asked for again; nobody is accused."""
    files = owners.seal()
    del files[name]
    with pytest.raises(MetadataMissing):
        refresh(tmp_path, owners, files)


@pytest.mark.parametrize("name", ["timestamp.json", "1.snapshot.json", "1.targets.json"])
@pytest.mark.parametrize("damage", [b"", b"{", b"[" * 50_000, b"null", b"\xff\xfe", b"x" * 70_000])
def test_damaged_files_are_refused(
    tmp_path: Path, owners: Owners, name: str, damage: bytes
) -> None:
    """Bytes that are no metadata end in an error of trust, whatever they are."""
    with pytest.raises(TrustError):
        refresh(tmp_path, owners, {**owners.seal(), name: damage})


def test_other_director_keys_are_refused(tmp_path: Path, owners: Owners) -> None:
    """Who may direct is under the owners' signature."""
    files = {**owners.seal(), "director/keys.json": b'{"keys":[]}'}
    with pytest.raises(DigestMismatch):
        refresh(tmp_path, owners, files)


def test_a_garbage_next_root_stops_the_refresh(tmp_path: Path, owners: Owners) -> None:
    """A false root delays, it does not weaken."""
    with pytest.raises(TrustError):
        refresh(tmp_path, owners, {**owners.seal(), "2.root.json": b"{}"})


def test_one_familys_fault_does_not_harm_another(tmp_path: Path) -> None:
    """A role that its key did not sign is refused for its own family alone."""
    owners = Owners(families=("digits", "audio"))
    owners.publish("1")
    owners.roles["audio"] = publisher.create_family(signer(77), now=NOW)
    repository = refresh(tmp_path, owners, owners.seal())
    assert repository.release("digits/1/manifest.json").number == 1
    with pytest.raises(SignatureInvalid):
        repository.release("audio/1/manifest.json")


def test_a_family_speaks_for_no_other(tmp_path: Path) -> None:
    """A role that lists another family's path is refused whole."""
    owners = Owners(families=("digits", "audio"))
    owners.roles["audio"] = publisher.add_release(
        owners.roles["audio"],
        owners.signers["audio"],
        path="digits/1/manifest.json",
        manifest=MANIFEST,
        now=NOW,
    )
    repository = refresh(tmp_path, owners, owners.seal())
    with pytest.raises(ReleaseUnknown):
        repository.release("digits/1/manifest.json")
    assert set(repository.faults) == {"audio"}


def test_a_family_cannot_delegate_to_another_one(tmp_path: Path) -> None:
    """Not with its own key and all online keys together: only the owners say who speaks for it."""
    owners = Owners(families=("audio", "vision"))
    thief = signer(77)
    role = publisher._targets(owners.roles["audio"])
    roles.delegate_families(role, {"vision": thief.public_key})
    assert role.delegations is not None
    assert role.delegations.roles is not None
    role.delegations.roles["vision"].paths = ["*/*/*"]
    owners.roles["audio"] = publisher._sign(role, [owners.signers["audio"]])
    owners.roles["vision"] = publisher.add_release(
        publisher.create_family(thief, now=NOW),
        thief,
        path="vision/9/manifest.json",
        manifest=MANIFEST,
        now=NOW,
    )
    repository = refresh(tmp_path, owners, owners.seal())
    assert set(repository.faults) == {"vision"}
    with pytest.raises(SignatureInvalid):
        repository.release("vision/9/manifest.json")


def test_an_assignment_that_all_allow_is_admitted(tmp_path: Path, owners: Owners) -> None:
    """Director and owners agree, the device and the hello are the right ones."""
    repository = refresh(tmp_path, owners, owners.seal())
    order = owners.order("2", generation=5)
    assignment = admit(repository, owners.assignment(order, nonce=NONCE), generations={"digits": 4})
    assert assignment.orders == (order,)
    assert admit(repository, owners.assignment()).orders == ()


def test_an_assignment_by_another_key_is_refused(tmp_path: Path, owners: Owners) -> None:
    """Only a director that the owners name may choose."""
    repository = refresh(tmp_path, owners, owners.seal())
    with pytest.raises(SignatureInvalid):
        admit(repository, Owners(seed=5000).assignment(owners.order("1")))


def test_an_assignment_for_another_device_is_refused(tmp_path: Path, owners: Owners) -> None:
    """What was signed for one device is worthless to another."""
    repository = refresh(tmp_path, owners, owners.seal())
    with pytest.raises(AssignmentForeign):
        admit(repository, owners.assignment(owners.order("1"), device="dev-2"))


@pytest.mark.parametrize(("offset_s", "life_s"), [(601, 600), (-301, 600), (0, 100_000)])
def test_an_assignment_is_good_for_a_short_time(
    tmp_path: Path, owners: Owners, offset_s: float, life_s: float
) -> None:
    """Too late, from the future, or made to last: all refused."""
    repository = refresh(tmp_path, owners, owners.seal())
    envelope = owners.assignment(owners.order("1"), life_s=life_s)
    with pytest.raises(AssignmentExpired):
        admit(repository, envelope, now=NOW + offset_s)


def test_an_older_generation_is_a_replay_and_a_known_one_is_left_out(
    tmp_path: Path, owners: Owners
) -> None:
    """Generations only grow; hearing of the present one twice is normal."""
    repository = refresh(tmp_path, owners, owners.seal())
    envelope = owners.assignment(owners.order("1", generation=7))
    with pytest.raises(AssignmentReplayed):
        admit(repository, envelope, generations={"digits": 8})
    assert admit(repository, envelope, generations={"digits": 7}).orders == ()


def test_an_answer_to_another_hello_is_a_replay(tmp_path: Path, owners: Owners) -> None:
    """The nonce ties an answer to the hello that asked."""
    repository = refresh(tmp_path, owners, owners.seal())
    for nonce in (None, "cd" * 16):
        with pytest.raises(AssignmentReplayed):
            admit(repository, owners.assignment(nonce=NONCE), nonce=nonce)


def test_a_release_below_the_floor_is_refused(tmp_path: Path, owners: Owners) -> None:
    """The owners' min_release holds against a director that chooses an older release."""
    owners.publish("3", b"{}", min_release=2)
    repository = refresh(tmp_path, owners, owners.seal())
    with pytest.raises(ReleaseBelowFloor):
        admit(repository, owners.assignment(owners.order("1")))
    assert admit(repository, owners.assignment(owners.order("2"))).orders


def test_a_withdrawn_release_is_refused(tmp_path: Path, owners: Owners) -> None:
    """What the owners withdrew stays listed, and runs nowhere."""
    owners.publish("3", b"{}", withdraw=("digits/2/manifest.json",))
    repository = refresh(tmp_path, owners, owners.seal())
    with pytest.raises(ReleaseWithdrawn):
        admit(repository, owners.assignment(owners.order("2")))


def test_an_order_must_name_what_the_owners_signed(tmp_path: Path, owners: Owners) -> None:
    """Path, digest and family of an order all have to be the owners'."""
    repository = refresh(tmp_path, owners, owners.seal())
    order = owners.order("1")
    wrong: list[tuple[Order, type[ShoalError]]] = [
        (_with_model(order, digest="f" * 64), DigestMismatch),
        (_with_model(order, length=5), DigestMismatch),
        (_with_model(order, path="digits/9/manifest.json"), ReleaseUnknown),
        (msgspec.structs.replace(order, family="audio"), ReleaseUnknown),
    ]
    for bad, error in wrong:
        with pytest.raises(error):
            admit(repository, owners.assignment(bad))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_never_gets_through(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whichever byte of whichever file changes, the answer is the same or a refusal."""
    owners = Owners()
    owners.publish("1")
    files = owners.seal()
    name = data.draw(st.sampled_from(sorted(set(files) - {"1.root.json"})))
    place = data.draw(st.integers(0, len(files[name]) - 1))
    damaged = bytearray(files[name])
    damaged[place] ^= data.draw(st.integers(1, 255))
    try:
        repository = refresh(tmp_path_factory.mktemp("t"), owners, {**files, name: bytes(damaged)})
        release = repository.release("digits/1/manifest.json")
    except ShoalError:
        return
    assert release.digest == chunks.digest_of(MANIFEST)


def _with_model(order: Order, **changes: object) -> Order:
    return msgspec.structs.replace(order, model=msgspec.structs.replace(order.model, **changes))
