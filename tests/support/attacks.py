"""What a thief of the broker, and of the online keys, can try with devices.

What comes after `yield` is how the owners recover, where that needs them.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from typing import TYPE_CHECKING

from agent import identity
from control_plane.broker.client import tls_context
from control_plane.broker.endpoint import Endpoint
from firmware_bundles import limits
from firmware_bundles.chunks import digest_of
from firmware_bundles.identifiers import target_path
from firmware_bundles.trust import envelopes, keys, publisher, roles
from firmware_bundles.wire import codec, messages, topics
from firmware_bundles.wire.topics import Down, Up
from fleet import wait_until
from support.attack_row import Attack, Victim, collected
from support.broker_hall import Peer
from support.scene import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.scene import Scene

_DAY_S = 86_400.0
ROWS: list[Attack] = []
_attack = collected(ROWS)


# The repository, as whoever owns the broker can turn it.


@_attack("rollback", Victim.DEVICE, "trust.rollback")
def older_repository(scene: Scene) -> Iterator[None]:
    """Retain the timestamp from before the owners' last change."""
    former = scene.thief.repository(roles.TIMESTAMP_FILE)
    scene.renew()
    _let_look(scene)
    scene.thief.retain(_file(roles.TIMESTAMP_FILE), former)
    scene.thief.repeat_assignment(scene.device.id)
    yield


@_attack("denial", Victim.DEVICE, "trust.refused")
def garbage_as_next_root(scene: Scene) -> Iterator[None]:
    """Retain garbage under the name of the next root, and a hint that names it."""
    number = scene.thief.hint().root + 1
    scene.thief.retain_files({f"{number}.root.json": b"{garbage"}, root=number)
    scene.thief.repeat_assignment(scene.device.id)
    yield


@_attack("arbitrary software", Victim.DEVICE, "trust.signature_invalid")
def next_root_of_strangers(scene: Scene) -> Iterator[None]:
    """Retain a next root that is well made, with other people's keys."""
    number = scene.thief.hint().root + 1
    strangers = [keys.generate() for _ in range(roles.ROOT_KEYS)]
    key = strangers[0].public_key
    now = time.time()
    root = publisher.create_root(
        strangers,
        targets_keys=[key],
        targets_threshold=1,
        snapshot_key=key,
        timestamp_key=key,
        now=now,
    )
    while publisher.describe(root).version < number:
        root = publisher.next_root(root, strangers, keys={}, now=now)
    scene.thief.retain_files({f"{number}.root.json": root}, root=number)
    scene.thief.repeat_assignment(scene.device.id)
    yield


@_attack("arbitrary software", Victim.DEVICE, "trust.signature_invalid")
def timestamp_of_a_stranger(scene: Scene) -> Iterator[None]:
    """Retain a newer timestamp that was signed with another key."""
    body = publisher.create_timestamp(
        keys.generate(), version=_version(scene) + 1, snapshot=_snapshot(scene), now=time.time()
    )
    scene.thief.retain(_file(roles.TIMESTAMP_FILE), body)
    scene.thief.repeat_assignment(scene.device.id)
    yield


@_attack("freeze", Victim.DEVICE, "trust.expired")
def expired_timestamp(scene: Scene) -> Iterator[None]:
    """Retain a true timestamp that is past its time, instead of what was signed since."""
    body = scene.thief.timestamp(_version(scene) + 1, _snapshot(scene), age_s=4 * _DAY_S)
    scene.thief.retain(_file(roles.TIMESTAMP_FILE), body)
    scene.thief.repeat_assignment(scene.device.id)
    yield


@_attack("endless data", Victim.DEVICE, "wire.too_large")
def endless_repository_file(scene: Scene) -> Iterator[None]:
    """Retain a timestamp that is longer than any file of a repository."""
    body = bytes(limits.REPOSITORY_FILE_BYTES_MAX + 1)
    scene.thief.retain(_file(roles.TIMESTAMP_FILE), body)
    yield


@_attack("mix-and-match", Victim.DEVICE, "trust.digest_mismatch")
def older_role_under_a_newer_snapshot(scene: Scene) -> Iterator[None]:
    """When the owners sign a new role, put the former one in its place; then give an order."""
    former = scene.thief.repository(f"{scene.thief.newest('digits')}.digits.json")
    number = scene.thief.newest("digits") + 1
    scene.renew()
    scene.thief.swap_file(f"{number}.digits.json", former)
    scene.thief.order(scene.device.id, scene.order("2"))
    yield


# Chunks.


@_attack("arbitrary software", Victim.DEVICE, "transfer.chunk_corrupt")
def flipped_bit_in_a_chunk(scene: Scene) -> Iterator[None]:
    """Flip one bit of the model on its way to the device."""
    yield from _offer_instead(scene, lambda whole: bytes([whole[0] ^ 1]) + whole[1:])


@_attack("mix-and-match", Victim.DEVICE, "transfer.chunk_corrupt")
def chunk_of_another_release(scene: Scene) -> Iterator[None]:
    """Put the model of another release under the name of this one's."""
    other = scene.thief.chunk(scene.model("2"))
    yield from _offer_instead(scene, lambda _: other)


@_attack("endless data", Victim.DEVICE, "transfer.chunk_corrupt")
def endless_chunk(scene: Scene) -> Iterator[None]:
    """Put more bytes under a chunk's name than any chunk has."""
    yield from _offer_instead(scene, lambda _: bytes(limits.CHUNK_BYTES_MAX + 1))


@_attack("slow retrieval", Victim.DEVICE, "transfer.chunk_missing")
def no_chunk_comes(scene: Scene) -> Iterator[None]:
    """Keep the manifest of a new release back, for ever."""
    release = scene.to_be_fetched()
    yield from _keep_back(scene, release, scene.releases[release]["digest"])


@_attack("partial bundle", Victim.DEVICE, "transfer.chunk_missing")
def one_file_is_kept_back(scene: Scene) -> Iterator[None]:
    """Let all of a new release through but its model."""
    release = scene.to_be_fetched()
    yield from _keep_back(scene, release, scene.model(release))


# Assignments.


@_attack("endless data", Victim.DEVICE, "wire.too_large")
def endless_assignment(scene: Scene) -> Iterator[None]:
    """Send an assignment that is longer than any."""
    scene.thief.say_assignment(scene.device.id, bytes(3 * limits.ASSIGNMENT_BYTES_MAX))
    yield


@_attack("arbitrary software", Victim.DEVICE, "trust.signature_invalid")
def director_of_a_stranger(scene: Scene) -> Iterator[None]:
    """Order an allowed release with a key that is no director's."""
    now = time.time()
    assignment = messages.Assignment(
        device=scene.device.id, issued=now, expires=now + 60, orders=(scene.order("4"),)
    )
    scene.thief.say_assignment(scene.device.id, envelopes.sign(assignment, keys.generate()))
    yield


@_attack("cross-device set", Victim.DEVICE, "trust.assignment_foreign")
def assignment_of_another_device(scene: Scene) -> Iterator[None]:
    """Ask in another device's name what it shall run, and send the true answer to this one."""
    topic = topics.down(scene.other.id, Down.ASSIGNMENT)
    scene.thief.say(topics.up(scene.other.id, Up.HELLO), _hello())
    scene.thief.say_assignment(scene.device.id, scene.thief.heard(topic)[-1])
    yield


@_attack("replayed set", Victim.DEVICE, "trust.assignment_replayed")
def replayed_assignment(scene: Scene) -> Iterator[None]:
    """Send again what the control plane once pushed."""
    said = scene.thief.heard(topics.down(scene.device.id, Down.ASSIGNMENT))
    former = [envelope for envelope in said if _is_push(envelope)][-1]
    scene.roll_out("2")
    scene.thief.say_assignment(scene.device.id, former)
    yield


@_attack("replayed set", Victim.DEVICE, "trust.assignment_replayed")
def forged_hello(scene: Scene) -> Iterator[None]:
    """Say hello in the device's name: the answer is true, but not to the device's own hello."""
    scene.thief.say(topics.up(scene.device.id, Up.HELLO), _hello())
    yield


@_attack("freeze", Victim.DEVICE, "trust.assignment_expired")
def expired_assignment(scene: Scene) -> Iterator[None]:
    """Deliver a true order for an allowed release long after it was given."""
    late = scene.thief.assignment(scene.device.id, scene.order("4"), age_s=3600, life_s=600)
    scene.thief.say_assignment(scene.device.id, late)
    yield


@_attack("rollback", Victim.DEVICE, "trust.release_below_floor")
def release_below_the_floor(scene: Scene) -> Iterator[None]:
    """Order, with the director's stolen key, a release that its owners no longer allow."""
    scene.thief.order(scene.device.id, scene.order("1"))
    yield


@_attack("rollback", Victim.DEVICE, "trust.release_withdrawn")
def withdrawn_release(scene: Scene) -> Iterator[None]:
    """Order, with the director's stolen key, a release that its owners withdrew."""
    scene.thief.order(scene.device.id, scene.order("3"))
    yield


@_attack("arbitrary software", Victim.DEVICE, "trust.release_unknown")
def release_that_nobody_signed(scene: Scene) -> Iterator[None]:
    """Order, with the director's stolen key, a release of the thief's own."""
    body = _own_manifest(scene)
    scene.thief.retain(topics.chunk(digest_of(body)), body)
    order = scene.order("4", path=target_path("digits", "9"), digest=digest_of(body))
    scene.thief.order(scene.device.id, order)
    yield


@_attack("arbitrary software", Victim.DEVICE, "trust.digest_mismatch")
def other_model_under_a_signed_name(scene: Scene) -> Iterator[None]:
    """Order, with the director's stolen key, own bytes under the path of a signed release."""
    body = _own_manifest(scene)
    scene.thief.retain(topics.chunk(digest_of(body)), body)
    scene.thief.order(scene.device.id, scene.order("4", digest=digest_of(body)))
    yield


# What no signature can tell.


@_attack("eavesdrop", Victim.NOBODY, "")
def eavesdropping_device(scene: Scene) -> Iterator[None]:
    """Subscribe to everything with another device's certificate: nothing of this one comes."""
    folder = scene.other.state / identity.FOLDER
    files = (folder / name for name in (identity.CA, identity.CERTIFICATE, identity.KEY))
    peer = Peer(
        Endpoint("127.0.0.1", scene.broker.port, is_tls=True), scene.other.id, tls_context(*files)
    )
    branch = f"shoal/v1/d/{scene.device.id}"
    peer.subscribe("#", f"{branch}/#", f"$share/thieves/{branch}/down/#", topics.all_down("+"))
    scene.roll_out("2")
    scene.thief.say(topics.down(scene.other.id, Down.CHUNK), b"the end")
    while (heard := peer.next()) != (topics.down(scene.other.id, Down.CHUNK), b"the end"):
        assert scene.device.id not in heard[0]
    yield
    peer.close()


@_attack("drop request", Victim.NOBODY, "")
def withheld_assignments(scene: Scene) -> Iterator[None]:
    """Let nothing through to devices: silence is no success, and the rollout pauses and says so."""
    scene.broker.deliver(is_wanted=False)
    name = scene.start_rollout("2", timeout_s=1)
    found = scene.await_rollout(name, "paused")
    assert "silent" in " ".join(found["why"])
    yield
    scene.broker.deliver(is_wanted=True)
    scene.take_back(name)


# Stolen online keys, used: devices believe them until the owners replace them.


@_attack("arbitrary software", Victim.DEVICE, "trust.signature_invalid")
def family_role_of_a_stranger(scene: Scene) -> Iterator[None]:
    """List an own model in a role signed by an own key, under stolen snapshot and timestamp."""
    thief, path, body = scene.thief, target_path("digits", "9"), _own_manifest(scene)
    foreign, now = keys.generate(), time.time()
    role = publisher.create_family(foreign, now=now)
    for number in range(thief.newest("digits")):  # only a newer version is looked at
        name = path if number == 0 else target_path("digits", f"f-{number}")
        data = body if number == 0 else b"%d" % number
        role = publisher.add_release(role, foreign, path=name, manifest=data, now=now)
    number = thief.newest("snapshot") + 1
    targets = thief.repository(f"{thief.newest('targets')}.targets.json")
    snapshot = publisher.create_snapshot(
        thief.online.snapshot, version=number, files={"targets": targets, "digits": role}, now=now
    )
    thief.retain(topics.chunk(digest_of(body)), body)
    thief.retain_files(
        {
            f"{publisher.describe(role).version}.digits.json": role,
            f"{number}.snapshot.json": snapshot,
            roles.TIMESTAMP_FILE: thief.timestamp(_version(scene) + 1, snapshot),
        }
    )
    thief.order(scene.device.id, scene.order("4", path=path, digest=digest_of(body)))
    yield
    scene.rotate("snapshot", "timestamp")


@_attack("fast-forward", Victim.DEVICE, "trust.rollback")
def timestamp_of_the_far_future(scene: Scene) -> Iterator[None]:
    """Sign a timestamp of a huge version: the control plane's own are refused from then on."""
    far = scene.thief.timestamp(2**31 - 1, _snapshot(scene))
    scene.thief.retain(_file(roles.TIMESTAMP_FILE), far)
    _let_look(scene)
    scene.thief.restore()
    scene.thief.repeat_assignment(scene.device.id)
    yield
    scene.rotate("snapshot", "timestamp")


def _offer_instead(scene: Scene, wrong: Callable[[bytes], bytes]) -> Iterator[None]:
    """Let the device fetch a release with other bytes in the place of its model.

    It asks the control plane for what the broker spoils, and so may come to the true one.
    """
    code, release = "transfer.chunk_corrupt", scene.to_be_fetched()
    before, digest = scene.refusals(code), scene.model(release)
    scene.thief.retain(topics.chunk(digest), wrong(scene.thief.chunk(digest)))
    name = scene.start_rollout(release)
    scene.await_refusal(code, before)
    scene.settle(name)
    yield


def _keep_back(scene: Scene, release: str, digest: str) -> Iterator[None]:
    """Let the device fetch a release without one chunk, while the control plane has none either."""
    code = "transfer.chunk_missing"
    before, order = scene.refusals(code), scene.order(release)
    scene.thief.retain(topics.chunk(digest), b"")
    with scene.control_plane_stopped():
        scene.thief.order(scene.device.id, order)
        scene.await_refusal(code, before)
        assert scene.version_that_answers() == "2"
    serves = "the release, now from the control plane"
    wait_until(lambda: scene.serves(release), serves, PATIENCE_S)
    scene.roll_out("2")
    yield


def _let_look(scene: Scene) -> None:
    """Let the device look at the repository, and see it believed."""
    before = scene.admissions()
    scene.thief.repeat_assignment(scene.device.id)
    wait_until(lambda: scene.admissions() > before, "the repository is believed", PATIENCE_S)


def _file(name: str) -> str:
    return topics.repository_file(name)


def _version(scene: Scene) -> int:
    return publisher.describe(scene.thief.repository(roles.TIMESTAMP_FILE)).version


def _snapshot(scene: Scene) -> bytes:
    return scene.thief.repository(f"{scene.thief.newest('snapshot')}.snapshot.json")


def _manifest(scene: Scene, release: str) -> bytes:
    return scene.thief.chunk(scene.releases[release]["digest"])


def _own_manifest(scene: Scene) -> bytes:
    """Return a release 9 of the thief's own, made of chunks that are there."""
    return _manifest(scene, "4").replace(b'"version":"4"', b'"version":"9"')


def _is_push(envelope: bytes) -> bool:
    payload = base64.b64decode(json.loads(envelope)["payload"])
    assignment = codec.decode(messages.Assignment, payload)
    return bool(assignment.orders) and assignment.nonce is None


def _hello() -> bytes:
    return codec.encode(
        messages.Hello(
            nonce=secrets.token_hex(16),
            incarnation=secrets.token_hex(8),
            agent_version="0",
            generations={},
            inventory_digest="0" * 64,
        )
    )
