"""Releases at the control plane: what is accepted, what is refused, and what devices are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from control_plane.api.auth import Role
from control_plane.releases.announcer import Announcer
from control_plane.releases.changes import Change
from firmware_bundles import build, chunks
from firmware_bundles.trust import key_folder, publisher
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import RepositoryHint
from support.http_server import serving
from support.owners import signer
from support.release_service import ReleaseService

Api: TypeAlias = httpx.Client
Client: TypeAlias = Callable[[Role | None], Api]
Terms: TypeAlias = Any
NOW = 1_800_000_000.0
DAY_S = 86400
# Versions that are signed online are never below the time.
FIRST, SECOND = f"{NOW:.0f}.snapshot.json", f"{NOW + 1:.0f}.snapshot.json"
PASSPHRASE = b"correct horse"
SAMPLES = Path(__file__).parents[2] / "firmware_bundles/samples/digits"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ReleaseService]:
    """A control plane without a root of trust yet."""
    service = ReleaseService(tmp_path, NOW)
    yield service
    service.database.close()


@pytest.fixture
def server(service: ReleaseService) -> Iterator[str]:
    """The address of the API."""
    with serving(service.app) as address:
        yield f"{address}/api/v1"


@pytest.fixture
def client(service: ReleaseService, server: str) -> Iterator[Client]:
    """Makes clients with a token of a role, or a stranger's with None."""
    with ExitStack() as stack:

        def make(role: Role | None) -> Api:
            headers = {"Authorization": f"Bearer {service.token(role)}"} if role else {}
            return stack.enter_context(httpx.Client(base_url=server, headers=headers))

        yield make


@pytest.fixture
def api(client: Client) -> Api:
    """An administrator's client."""
    return client(Role.ADMIN)


@pytest.fixture
def keys(service: ReleaseService, api: Api, tmp_path: Path) -> Path:
    """The owners' keys; the control plane has taken their root."""
    beginning = key_folder.create(
        tmp_path / "owners",
        families=["digits"],
        online=service.online_keys.public(),
        passphrase=PASSPHRASE,
        now=NOW,
    )
    assert api.post("/trust/bootstrap", json=body_of(beginning)).status_code == 201
    return tmp_path / "owners"


def body_of(beginning: key_folder.Beginning) -> dict[str, Any]:
    """Return the request that lays a root of trust."""
    return {
        "root": beginning.root.decode(),
        "targets": beginning.targets.decode(),
        "director_keys": beginning.director_keys.decode(),
        "families": {name: data.decode() for name, data in beginning.families.items()},
    }


def bundle_of(folder: Path, version: str) -> build.Bundle:
    """Build a sample's version into `folder`."""
    source = SAMPLES / f"v{version}"
    settings = build.Settings(
        family="digits",
        version=version,
        model=source / "model.tflite",
        labels=source / "labels.txt",
        golden=source / "golden.npz",
        heldout=source / "heldout.npz",
    )
    return build.build(settings, folder / f"digits-{version}")


def signed(api: Api, keys: Path, bundle: build.Bundle, **terms: Terms) -> bytes:
    """Sign a bundle on top of the family's present role."""
    return publisher.add_release(
        api.get("/trust/roles/digits").content,
        key_folder.family_signer(keys, "digits", PASSPHRASE),
        path=f"digits/{bundle.manifest.version}/manifest.json",
        manifest=bundle.manifest_bytes,
        now=NOW,
        **terms,
    )


def upload(api: Api, bundle: build.Bundle) -> None:
    """Put all chunks of a bundle."""
    for entry in bundle.manifest.files:
        for chunk in chunks.cut(bundle.file_bytes(entry.name)):
            assert api.put(f"/chunks/{chunk.digest}", content=chunk.data).status_code == 200


def post(api: Api, role: bytes, bundle: build.Bundle) -> httpx.Response:
    """Publish, whatever the answer is."""
    return api.post(
        "/releases", json={"role": role.decode(), "manifest": bundle.manifest_bytes.decode()}
    )


def publish(api: Api, keys: Path, bundle: build.Bundle, **terms: Terms) -> None:
    """Sign, upload and publish."""
    role = signed(api, keys, bundle, **terms)
    upload(api, bundle)
    answer = post(api, role, bundle)
    assert answer.status_code == 201, answer.text


def test_a_published_bundle_reaches_a_device(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """A device verifies the release, and finds the manifest and each file among the chunks."""
    bundle = bundle_of(tmp_path, "1")
    publish(api, keys, bundle)
    release = service.as_device(tmp_path / "cache").release("digits/1/manifest.json")
    assert release.digest == bundle.digest
    retained = service.retained.messages
    assert retained[topics.chunk(release.digest)] == bundle.manifest_bytes
    for entry in bundle.manifest.files:
        pieces = (retained[topics.chunk(digest)] for digest in entry.chunks)
        assert chunks.join(entry.digest, pieces) == bundle.file_bytes(entry.name)


def test_what_refers_is_announced_after_what_it_refers_to(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """Chunks, role, targets, snapshot, timestamp, and the hint last."""
    service.retained.topics.clear()
    publish(api, keys, bundle_of(tmp_path, "1"))
    told = service.retained.topics
    places = [
        max(place for place, topic in enumerate(told) if topic.startswith("shoal/v1/chunk/")),
        *(
            told.index(topics.repository_file(name))
            for name in ("2.digits.json", "1.targets.json", SECOND, "timestamp.json")
        ),
        told.index(topics.REPOSITORY_HINT),
    ]
    assert places == sorted(places)


def test_chunks_are_said_once_and_again_on_demand(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """A second release sends only what is new; a broker that lost all gets all."""
    publish(api, keys, bundle_of(tmp_path, "1"))
    service.retained.topics.clear()
    publish(api, keys, bundle_of(tmp_path, "2"))
    told = [topic for topic in service.retained.topics if "/chunk/" in topic]
    assert len(told) == len(set(told)) == 4  # the labels are those of version 1
    service.retained.messages.clear()
    service.publisher.announce()
    assert service.as_device(tmp_path / "cache").release("digits/1/manifest.json").number == 1
    assert sum("/chunk/" in topic for topic in service.retained.messages) == 9


def test_left_files_are_cleared_one_announcement_later(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """A device that follows the last hint still finds its files."""
    old = topics.repository_file(FIRST)
    publish(api, keys, bundle_of(tmp_path, "1"))
    assert old in service.retained.messages
    publish(api, keys, bundle_of(tmp_path, "2"))
    assert old not in service.retained.messages


def test_the_chunks_of_a_file_that_left_are_cleared_with_it(service: ReleaseService) -> None:
    """What a role of several messages shares with the one after it stays."""
    owners = service.begin(releases=1000)
    service.publisher.announce()
    messages = service.retained.messages
    hint = codec.decode(RepositoryHint, messages[topics.REPOSITORY_HINT])
    assert hint.indexed == ("2.digits.json",)
    before = {topic for topic in messages if topics.parse_chunk(topic)}
    for _ in range(3):
        present = service.repository.family_role("digits")
        role = publisher.next_terms(present, owners.signers["digits"], now=NOW, min_release=1)
        service.repository.advance(Change(families={"digits": role}))
        service.publisher.announce_changes()
    assert topics.repository_file("2.digits.json") not in messages
    after = {topic for topic in messages if topics.parse_chunk(topic)}
    assert len(after) < 2 * len(before) + 1
    assert before - after


def test_chunks_beyond_the_limit_are_left_to_https(
    service: ReleaseService, client: Client, api: Api, keys: Path, tmp_path: Path
) -> None:
    """The newest release is retained; what it displaces is cleared, counted, and still served."""
    first, second = bundle_of(tmp_path, "1"), bundle_of(tmp_path, "2")
    publish(api, keys, first)
    service.publisher.retained_bytes_max = sum(each.length for each in second.manifest.files) + len(
        second.manifest_bytes
    )
    publish(api, keys, second)
    retained = {topic for topic in service.retained.messages if "/chunk/" in topic}
    wanted = {topics.chunk(digest) for digest in (*second.manifest.chunks(), second.digest)}
    assert retained == wanted
    gone = set(first.manifest.chunks()) | {first.digest}
    left = {piece.digest for piece in service.publisher.choice.left_out}
    assert left == gone - set(second.manifest.chunks())
    assert client(None).get(f"/chunks/{first.digest}").content == first.manifest_bytes


def test_chunks_of_a_withdrawn_release_are_cleared(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """Also at a broker that remembers them from before this process."""
    first = bundle_of(tmp_path, "1")
    publish(api, keys, first)
    path = "digits/1/manifest.json"
    publish(api, keys, bundle_of(tmp_path, "2"), withdraw=[path])
    assert topics.chunk(first.digest) not in service.retained.messages
    service.retained.messages[topics.chunk(first.digest)] = first.manifest_bytes
    service.publisher.announce()
    assert topics.chunk(first.digest) not in service.retained.messages


def test_a_release_below_the_floor_counts_as_withdrawn(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """No device would take it, so no rollout offers it, and its chunks are cleared."""
    first = bundle_of(tmp_path, "1")
    publish(api, keys, first)
    publish(api, keys, bundle_of(tmp_path, "2"), min_release=2)
    assert service.registry.find("digits", "1").is_withdrawn
    assert not service.registry.find("digits", "2").is_withdrawn
    assert topics.chunk(first.digest) not in service.retained.messages


def test_the_broker_saves_once_after_something_was_said(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """Not before it has everything, and not again while nothing is said."""
    saved: list[float] = []
    has_all = False
    announcer = Announcer(
        service.publisher,
        service.repository,
        flush=lambda _s: has_all,
        save=lambda: saved.append(service.now),
        clock=lambda: service.now,
    )
    publish(api, keys, bundle_of(tmp_path, "1"))
    announcer.tick()
    assert saved == []
    has_all = True
    for _ in range(3):
        announcer.tick()
    assert len(saved) == 1
    announcer.broker_connected()
    for _ in range(3):
        announcer.tick()
    assert len(saved) == 2


def test_releases_are_listed_and_found(
    service: ReleaseService, client: Client, api: Api, keys: Path, tmp_path: Path
) -> None:
    """The registry knows number, digest and what was withdrawn."""
    publish(api, keys, bundle_of(tmp_path, "1"))
    publish(api, keys, bundle_of(tmp_path, "2"), withdraw=["digits/1/manifest.json"])
    rows = client(Role.VIEWER).get("/releases").json()
    assert [(row["version"], row["number"], row["is_withdrawn"]) for row in rows] == [
        ("1", 1, True),
        ("2", 2, False),
    ]
    digest = api.get("/releases/digits/2").json()["digest"]
    assert service.registry.manifest(digest).version == "2"
    assert service.registry.file(digest, "labels.txt").startswith(b"0\n")
    missing = api.get("/releases/digits/3")
    assert (missing.status_code, missing.json()["code"]) == (404, "input.not_found")


def test_a_publish_whose_answer_was_lost_may_be_repeated(
    api: Api, keys: Path, tmp_path: Path
) -> None:
    """The same release again gets the same answer."""
    bundle = bundle_of(tmp_path, "1")
    role = signed(api, keys, bundle)
    upload(api, bundle)
    first, second = post(api, role, bundle), post(api, role, bundle)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()


def refused(service: ReleaseService, answer: httpx.Response, code: str) -> None:
    """Check that a publish was refused with this code and that nothing became visible."""
    assert answer.json()["code"] == code, answer.text
    assert answer.status_code >= 400
    assert service.registry.list() == []
    assert set(service.repository.files()) == {
        "1.root.json", "1.targets.json", "1.digits.json", FIRST,
        "timestamp.json", "director/keys.json",
    }  # fmt: skip
    assert not [topic for topic in service.retained.topics if "/chunk/" in topic]


def test_a_release_without_its_chunks_is_refused(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """Nothing is visible that a device could not fetch."""
    bundle = bundle_of(tmp_path, "1")
    refused(service, post(api, signed(api, keys, bundle), bundle), "transfer.chunk_missing")


def test_a_role_by_a_foreign_key_is_refused(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """A token lets nobody publish: only the family's key does."""
    bundle = bundle_of(tmp_path, "1")
    upload(api, bundle)
    foreign = publisher.create_family(signer(99), now=NOW)
    role = publisher.add_release(
        foreign,
        signer(99),
        path="digits/1/manifest.json",
        manifest=bundle.manifest_bytes,
        now=NOW,
    )
    refused(service, post(api, role, bundle), "trust.signature_invalid")


def test_a_manifest_other_than_the_signed_one_is_refused(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """The signature covers the manifest's bytes."""
    bundle = bundle_of(tmp_path, "1")
    role = signed(api, keys, bundle)
    upload(api, bundle)
    other = bundle._replace(manifest_bytes=bundle.manifest_bytes + b" ")
    refused(service, post(api, role, other), "trust.digest_mismatch")


def test_a_role_that_skips_a_version_is_refused(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """Roles follow each other one by one, each with one release."""
    one, two = bundle_of(tmp_path, "1"), bundle_of(tmp_path, "2")
    upload(api, one)
    upload(api, two)
    twice = publisher.add_release(
        signed(api, keys, one),
        key_folder.family_signer(keys, "digits", PASSPHRASE),
        path="digits/2/manifest.json",
        manifest=two.manifest_bytes,
        now=NOW,
    )
    refused(service, post(api, twice, two), "trust.refused")


def test_two_owners_that_sign_at_once_do_not_overwrite_each_other(
    api: Api, keys: Path, tmp_path: Path
) -> None:
    """The second is told to sign again."""
    one, two = bundle_of(tmp_path, "1"), bundle_of(tmp_path, "2")
    upload(api, one)
    upload(api, two)
    first, second = signed(api, keys, one), signed(api, keys, two)
    assert post(api, first, one).status_code == 201
    late = post(api, second, two)
    assert (late.status_code, late.json()["code"]) == (409, "conflict")
    assert post(api, signed(api, keys, two), two).status_code == 201


def test_broken_bodies_are_refused_with_the_place(api: Api, keys: Path) -> None:
    """A manifest that is none, and a request that is none."""
    broken = api.post("/releases", json={"role": "{}", "manifest": '{"family":1}'})
    assert broken.json()["code"] == "bundle.manifest_invalid"
    assert "$.family" in broken.json()["detail"]
    assert api.post("/releases", json={"role": "{}"}).status_code == 422


def test_a_chunk_must_be_what_its_name_says(client: Client, api: Api) -> None:
    """Wrong bytes, a wrong name and too many bytes: each refused, nothing stored."""
    digest = chunks.digest_of(b"data")
    assert api.put(f"/chunks/{digest}", content=b"other").json()["code"] == "transfer.chunk_corrupt"
    assert api.put("/chunks/short", content=b"data").json()["code"] == "wire.malformed"
    assert api.put(f"/chunks/{digest}", content=bytes(70_000)).json()["code"] == "wire.too_large"
    assert api.get(f"/chunks/{digest}").status_code == 404
    assert api.put(f"/chunks/{digest}", content=b"data").json() == {"created": True}
    assert api.put(f"/chunks/{digest}", content=b"data").json() == {"created": False}
    assert client(None).get(f"/chunks/{digest}").content == b"data"


def test_roles_of_callers_are_kept(client: Client) -> None:
    """Who may only look can neither upload nor publish nor lay a root; a stranger not even look."""
    viewer = client(Role.VIEWER)
    digest = chunks.digest_of(b"data")
    assert viewer.get("/releases").status_code == 200
    assert viewer.put(f"/chunks/{digest}", content=b"data").status_code == 403
    assert viewer.post("/releases", json={"role": "r", "manifest": "m"}).status_code == 403
    operator = client(Role.OPERATOR)
    empty = {"root": "r", "targets": "t", "director_keys": "d", "families": {"digits": "f"}}
    assert operator.post("/trust/bootstrap", json=empty).status_code == 403
    assert client(None).get("/releases").status_code == 401


def test_a_root_of_trust_is_laid_once(
    service: ReleaseService, api: Api, keys: Path, tmp_path: Path
) -> None:
    """A second beginning is refused, even with the same keys."""
    again = api.post("/trust/bootstrap", json=body_of(key_folder.read_beginning(keys)))
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


@pytest.mark.parametrize("stranger", ["snapshot", "timestamp", "director"])
def test_a_root_for_another_control_plane_is_refused(
    service: ReleaseService, api: Api, tmp_path: Path, stranger: str
) -> None:
    """The owners must have delegated to this control plane's own online keys."""
    online = service.online_keys.public() | {stranger: signer(1).public_key}
    beginning = key_folder.create(
        tmp_path / "owners", families=["digits"], online=online, passphrase=PASSPHRASE, now=NOW
    )
    answer = api.post("/trust/bootstrap", json=body_of(beginning))
    assert answer.json()["code"] == "trust.signature_invalid"
    assert service.repository.files() == {}


def test_online_roles_are_signed_again_before_they_expire(
    service: ReleaseService, keys: Path, tmp_path: Path
) -> None:
    """A fleet without new releases keeps trusting what it has."""
    assert not service.repository.refresh_if_due(NOW + 1)
    service.now = NOW + 2 * DAY_S
    assert service.repository.refresh_if_due(service.now)
    assert not service.repository.refresh_if_due(service.now)
    service.now += 2.9 * DAY_S
    service.publisher.announce_changes()
    assert service.as_device(tmp_path / "cache").versions["timestamp"] == int(NOW + 2 * DAY_S)


def test_online_keys_survive_a_restart(service: ReleaseService, tmp_path: Path) -> None:
    """The keys that the owners delegated to are found again."""
    again = type(service.online_keys).load_or_create(tmp_path / "keys")
    assert again.public_document() == service.online_keys.public_document()
