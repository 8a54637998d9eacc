"""Owners' ceremonies against a running API, and what a device makes of each."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from securesystemslib.signer import CryptoSigner

from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.releases.changes import Change
from firmware_bundles.errors import (
    Malformed,
    ReleaseUnknown,
    RollbackAttempt,
    ShoalError,
    SignatureInvalid,
)
from firmware_bundles.trust import envelopes, publisher, verifier
from firmware_bundles.trust import keys as trust_keys
from firmware_bundles.trust.floors import Mark
from firmware_bundles.trust.keys import Signer
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import (
    Arm,
    Assignment,
    ModelReference,
    Order,
    RepositoryHint,
)
from support.http_server import serving
from support.release_service import ReleaseService

OWNED = ("root", "targets", "digits")
SAMPLE = Path(__file__).parents[2] / "firmware_bundles/samples/digits/v1"


class Device:
    """Follows the retained repository from its first root on, with a cache and floors."""

    def __init__(self, service: ReleaseService, cache: Path) -> None:
        self._service = service
        self._cache = cache
        self._known: dict[str, Mark] = {}

    def know(self, marks: Mapping[str, Mark]) -> None:
        """Hold what comes against the floors that these marks are."""
        self._known = dict(marks)

    def refresh(self) -> verifier.Repository:
        """Take what is retained now."""
        messages = self._service.retained.messages
        hint = codec.decode(RepositoryHint, messages[topics.REPOSITORY_HINT])
        return self.take({name: messages[topics.repository_file(name)] for name in hint.files})

    def take(self, files: Mapping[str, bytes]) -> verifier.Repository:
        """Take these files."""
        repository = verifier.refresh(
            self._cache, files["1.root.json"], files, self._service.now, self._known
        )
        self._known = dict(repository.marks)
        assert repository.faults == {}
        return repository


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseService]:
    """A running control plane with a root of trust, and the owners' folder `keys`."""
    (tmp_path / "plane").mkdir()
    service = ReleaseService(tmp_path / "plane", time.time())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOAL_TOKEN", service.token(Role.ADMIN))
    monkeypatch.setenv("SHOAL_KEY_PASSPHRASE", "correct horse")
    with serving(service.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        assert run("keys", "init", "--out", "keys", "--family", "digits") == 0
        yield service
    service.database.close()


@pytest.fixture
def device(service: ReleaseService, tmp_path: Path) -> Device:
    """A device that knows the beginning."""
    device = Device(service, tmp_path / "cache")
    device.refresh()
    return device


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    return int(ended.value.code or 0)


def publish(version: str = "1", family: str = "digits") -> None:
    """Build, sign and publish a release."""
    folder = f"{family}-{version}"
    arguments = (
        "bundle", "build", "--family", family, "--version", version, "--out", folder,
        "--model", str(SAMPLE / "model.tflite"), "--labels", str(SAMPLE / "labels.txt"),
        "--golden", str(SAMPLE / "golden.npz"), "--heldout", str(SAMPLE / "heldout.npz"),
    )  # fmt: skip
    assert run(*arguments) == 0
    assert run("release", "sign", folder, "--keys", "keys") == 0
    assert run("release", "publish", folder) == 0


@pytest.mark.parametrize(
    "name",
    ["root-1", "root", "targets-2", "targets", "digits", "snapshot", "timestamp", "director"],
)
def test_every_key_can_be_rotated(
    service: ReleaseService, device: Device, tmp_path: Path, name: str
) -> None:
    """A device that knew the former key follows, a new one agrees, and work goes on."""
    publish("1")
    before = device.refresh()
    assert run("keys", "rotate", name, "--keys", "keys") == 0
    after = device.refresh()
    assert after.release("digits/1/manifest.json") == before.release("digits/1/manifest.json")
    assert (after.directors != before.directors) is (name == "director")
    assert after.directors[0].keyid == service.online_keys.director.public_key.keyid
    publish("2")
    assert run("keys", "rotate", name, "--keys", "keys") == 0
    assert device.refresh().release("digits/2/manifest.json").number == 2
    assert Device(service, tmp_path / "new").refresh().versions == device.refresh().versions
    assert not list(tmp_path.rglob("*.next.pem"))


def test_all_root_keys_can_be_replaced_one_by_one(device: Device) -> None:
    """Each time two of the former and two of the new ones sign."""
    for name in ("root-1", "root-2", "root-3"):
        assert run("keys", "rotate", name, "--keys", "keys") == 0
    assert device.refresh().versions["root"] == 4


def test_one_stolen_root_key_changes_nothing(
    service: ReleaseService, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three must sign, before the control plane takes anything."""
    shutil.copytree("keys", "stolen")
    for name in ("root-2", "root-3"):
        (tmp_path / "stolen" / f"{name}.pem").unlink()
    assert run("keys", "rotate", "timestamp", "--keys", "stolen") != 0
    assert "trust.signature_invalid" in capsys.readouterr().err
    assert device.refresh().versions["root"] == 1


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (["root-2"], ["root-2"]),
        (["targets-1", "targets-2"], ["targets-1", "targets-2"]),
        (["targets-1", "targets-2", "targets-3"], ["targets"]),
        (["root-1", "targets-1", "family-digits"], ["root-1", "targets-1", "digits"]),
    ],
    ids="-".join,
)
def test_a_lost_key_is_replaced_by_the_others(
    service: ReleaseService, device: Device, tmp_path: Path, gone: list[str], named: list[str]
) -> None:
    """Its file is not needed; afterwards the folder is whole again."""
    publish("1")
    for name in gone:
        (tmp_path / "keys" / f"{name}.pem").unlink()
    assert run("keys", "rotate", *named, "--keys", "keys") == 0
    assert device.refresh().release("digits/1/manifest.json").number == 1
    publish("2")
    assert run("keys", "rotate", "root", "targets", "--keys", "keys") == 0
    assert device.refresh().release("digits/2/manifest.json").number == 2


def test_which_key_was_lost_is_asked_where_it_cannot_be_told(
    service: ReleaseService, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files are away: one is lost, the other one lies in its safe."""
    keys = tmp_path / "keys"
    lost = private(keys / "targets-2.pem").public_key.keyid
    assert run("keys", "rotate", "targets-1", "--keys", "keys") == 0
    (keys / "targets-2.pem").unlink()
    (keys / "root-2.pem").unlink()
    (keys / "root-3.pem").rename(tmp_path / "safe.pem")
    assert run("keys", "rotate", "root-2", "--keys", "keys") == 2
    assert "--key-id" in capsys.readouterr().err
    (tmp_path / "safe.pem").rename(keys / "root-3.pem")
    arguments = ("targets-2", "--keys", "keys", "--key-id", lost[:12])
    assert run("keys", "rotate", *arguments) == 0
    _, named = publisher.root_keys(service.repository.root())["targets"]
    assert lost not in {key.keyid for key in named}
    assert device.refresh().versions["targets"] == 3


def test_a_stolen_root_key_ends_with_its_rotation(
    service: ReleaseService, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever steals another one later has one of two, not two."""
    shutil.copytree("keys", "stolen")
    assert run("keys", "rotate", "root-2", "--keys", "keys") == 0
    (tmp_path / "stolen" / "root-1.pem").unlink()
    capsys.readouterr()
    assert run("keys", "rotate", "timestamp", "--keys", "stolen") != 0
    assert "trust.signature_invalid" in capsys.readouterr().err
    assert device.refresh().versions["root"] == 2


def test_one_stolen_targets_key_changes_nothing(
    service: ReleaseService, device: Device, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of three must sign who may publish and who may direct."""
    shutil.copytree("keys", "stolen")
    for name in ("targets-1", "targets-2"):
        (tmp_path / "stolen" / f"{name}.pem").unlink()
    assert run("keys", "add-family", "evil", "--keys", "stolen") == 2
    assert "targets keys must sign" in capsys.readouterr().err
    role = publisher.next_targets(
        service.repository.targets_role(),
        [private(tmp_path / "stolen" / "targets-3.pem")],
        now=service.now,
        revoked=["digits"],
    )
    with pytest.raises(SignatureInvalid):
        service.repository.advance(Change(targets=role))
    assert run("keys", "rotate", "targets-3", "--keys", "keys") == 0
    assert device.refresh().versions["targets"] == 2


def test_lost_online_keys_are_named_anew(
    service: ReleaseService, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control plane whose keys are gone signs nothing until its owners name the new ones."""
    publish("1")
    known = device.refresh().marks
    for file in (tmp_path / "plane" / "keys").iterdir():
        file.unlink()
    again = ReleaseService(tmp_path / "plane", service.now)
    monkeypatch.setenv("SHOAL_TOKEN", again.token(Role.ADMIN))
    with serving(again.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        online = ("snapshot", "timestamp", "director")
        assert run("keys", "rotate", *online, "--keys", "keys") == 0
        publish("2")
    follower = Device(again, tmp_path / "cache")
    follower.know(known)
    repository = follower.refresh()
    assert repository.release("digits/2/manifest.json").number == 2
    director = again.online_keys.director.public_key.keyid
    assert [key.keyid for key in repository.directors] == [director]
    again.database.close()


@pytest.mark.parametrize("names", [("snapshot", "timestamp"), ("timestamp",)])
def test_devices_come_back_from_stolen_online_keys(
    service: ReleaseService, device: Device, names: tuple[str, ...]
) -> None:
    """A thief counted the versions up; under new keys they begin again where the owners are."""
    publish("1")
    files = service.repository.files()
    listed = {"targets": files["1.targets.json"], "digits": files["2.digits.json"]}
    online, now, far = service.online_keys, service.now, 2**31
    snapshot = publisher.create_snapshot(online.snapshot, version=far, files=listed, now=now)
    timestamp = publisher.create_timestamp(
        online.timestamp, version=far, snapshot=snapshot, now=now
    )
    device.take({**files, f"{far}.snapshot.json": snapshot, "timestamp.json": timestamp})
    with pytest.raises(RollbackAttempt):
        device.refresh()
    assert run("keys", "rotate", *names, "--keys", "keys") == 0
    assert device.refresh().versions["timestamp"] < far
    publish("2")
    assert device.refresh().release("digits/2/manifest.json").number == 2


def test_a_stolen_director_key_ends_with_its_rotation(
    service: ReleaseService, device: Device
) -> None:
    """What it signs afterwards is refused; the new one is obeyed, and finds room above it."""
    publish("1")
    facts = device.refresh().release("digits/1/manifest.json")
    stolen, now = service.online_keys.director._present, service.now

    def admitted(signer: Signer, generation: int = 1) -> Assignment:
        order = Order(
            family="digits",
            generation=generation,
            model=ModelReference(path=facts.path, digest=facts.digest, length=facts.length),
            rollout="r-1",
            arm=Arm.CANDIDATE,
        )
        message = Assignment(device="dev-1", issued=now, expires=now + 60, orders=(order,))
        return verifier.admit(
            device.refresh(),
            envelopes.sign(message, signer),
            device="dev-1",
            generations={},
            nonce=None,
            now=now,
        )

    assert len(admitted(stolen).orders) == 1
    with pytest.raises(Malformed, match="no room"):
        admitted(stolen, 2**53 - 1)
    assert run("keys", "rotate", "director", "--keys", "keys") == 0
    with pytest.raises(SignatureInvalid):
        admitted(stolen)
    assert len(admitted(service.online_keys.director).orders) == 1


def test_roles_are_signed_again_as_they_are(service: ReleaseService, device: Device) -> None:
    """Before they end: the same keys, families and releases for another life."""
    publish("1")
    before = device.refresh()
    service.now += 300 * 86_400
    service.repository.refresh_if_due(service.now)
    service.publisher.announce_changes()
    assert run("keys", "renew", "root", "targets", "digits", "--keys", "keys") == 0
    after = device.refresh()
    assert after.releases == before.releases
    owned = {role: after.versions[role] - before.versions[role] for role in OWNED}
    assert owned == dict.fromkeys(OWNED, 1)
    assert run("keys", "renew", "timestamp", "--keys", "keys") == 2


def private(path: Path) -> CryptoSigner:
    """A private key of the owners."""
    return trust_keys.decode_private(path.read_bytes(), b"correct horse", path.name)


def test_a_stolen_family_key_ends_with_its_rotation(
    service: ReleaseService, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it signs afterwards is refused."""
    shutil.copytree("keys", "stolen")
    publish("1")
    assert run("keys", "rotate", "digits", "--keys", "keys") == 0
    assert run("release", "withdraw", "digits", "1", "--keys", "stolen") != 0
    assert "trust.signature_invalid" in capsys.readouterr().err
    assert device.refresh().floor("digits").withdrawn == ()


def test_families_come_and_go(service: ReleaseService, device: Device) -> None:
    """A new one can publish; a revoked one has no releases any more, the others keep theirs."""
    publish("1")
    assert run("keys", "add-family", "audio", "--keys", "keys") == 0
    assert run("keys", "add-family", "audio", "--keys", "keys") == 2
    publish("1", "audio")
    assert device.refresh().release("audio/1/manifest.json").number == 1
    assert run("keys", "revoke-family", "audio", "--keys", "keys") == 0
    repository = device.refresh()
    with pytest.raises(ReleaseUnknown):
        repository.release("audio/1/manifest.json")
    assert repository.release("digits/1/manifest.json").number == 1
    assert service.registry.find("audio", "1").is_withdrawn
    assert run("keys", "revoke-family", "audio", "--keys", "keys") == 2
    publish("2")
    assert device.refresh().release("digits/2/manifest.json").number == 2


def test_releases_are_withdrawn_and_the_floor_rises(
    service: ReleaseService, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a new release; and neither is ever taken back."""
    for version in ("1", "2", "3"):
        publish(version)
    assert run("release", "withdraw", "digits", "1", "--keys", "keys") == 0
    assert run("release", "floor", "digits", "2", "--keys", "keys") == 0
    floor = device.refresh().floor("digits")
    assert (floor.min_release, floor.withdrawn) == (2, ("digits/1/manifest.json",))
    assert service.registry.find("digits", "1").is_withdrawn
    for arguments in (
        ("floor", "digits", "1"),
        ("floor", "digits", "9"),
        ("withdraw", "digits", "7"),
    ):
        assert run("release", *arguments, "--keys", "keys") == 2
    capsys.readouterr()
    assert device.refresh().floor("digits") == floor


def test_show_names_every_role(service: ReleaseService, capsys: pytest.CaptureFixture[str]) -> None:
    """With the threshold, and the keys as the control plane holds them."""
    capsys.readouterr()
    assert run("keys", "show", "--output", "json") == 0
    rows = {row["role"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {
        "root", "targets", "snapshot", "timestamp", "family digits", "director",
    }  # fmt: skip
    assert (rows["root"]["threshold"], len(rows["root"]["keys"])) == (2, 3)
    assert run("keys", "show") == 0
    assert "THRESHOLD" in capsys.readouterr().out


def test_an_interrupted_rotation_goes_on_with_the_same_key(
    service: ReleaseService, device: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whether the control plane took it or not: the command is repeated."""
    for name in ("digits", "root-2", "targets"):
        with monkeypatch.context() as patched:
            patched.setattr("firmware_bundles.trust.key_folder.settle", _interrupted)
            assert run("keys", "rotate", name, "--keys", "keys") != 0
        assert list(tmp_path.rglob("*.next.pem"))
        assert run("keys", "rotate", name, "--keys", "keys") == 0
        assert not list(tmp_path.rglob("*.next.pem"))
        device.refresh()
    publish("1")


def _interrupted(*_: object) -> None:
    raise ShoalError("the answer was lost")


def test_a_successor_takes_over_after_a_restart(service: ReleaseService, tmp_path: Path) -> None:
    """A control plane that stopped between writing and switching finds its way."""
    online = service.online_keys.load_or_create(tmp_path / "other")
    fresh = online.prepare("timestamp")
    again = service.online_keys.load_or_create(tmp_path / "other")
    assert again.prepare("timestamp") == fresh
    again.timestamp.settle(set())
    assert again.timestamp.public_key != fresh
    assert again.timestamp.among({fresh.keyid}).public_key == fresh
    again.timestamp.settle({fresh.keyid})
    assert again.timestamp.public_key == fresh
    assert service.online_keys.load_or_create(tmp_path / "other").timestamp.public_key == fresh


def test_what_devices_would_refuse_is_not_taken(
    service: ReleaseService, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Skipped versions, foreign keys, changed releases, a foreign director: nothing changes."""
    publish("1")
    stranger = trust_keys.generate()
    now = service.now
    targets = service.repository.targets_role()
    role = service.repository.family_role("digits")
    foreign = publisher.next_targets(targets, [stranger], now=now)
    emptied = publisher.create_family(stranger, now=now)
    listed = trust_keys.encode_public_list([stranger.public_key]).decode()
    bodies = [
        {"targets": foreign.decode()},
        {"targets": targets.decode()},
        {"families": {"digits": emptied.decode()}},
        {"families": {"digits": role.decode()}},
        {"families": {"audio": role.decode()}},
        {"root": service.repository.root().decode()},
        {"root": "{}"},
        {"director_keys": listed},
    ]
    before = service.repository.files()
    headers = {"Authorization": f"Bearer {service.token(Role.ADMIN)}"}
    with serving(service.app) as address, httpx.Client(headers=headers) as api:
        for body in bodies:
            answer = api.post(f"{address}/api/v1/trust/changes", json=body)
            assert 400 <= answer.status_code < 500, (body, answer.text)
        operator = {"Authorization": f"Bearer {service.token(Role.OPERATOR)}"}
        answer = api.post(f"{address}/api/v1/trust/changes", json={}, headers=operator)
        assert answer.status_code == 403
    assert service.repository.files() == before
    device.refresh()
