"""Owners of model families and their repository, in memory and with fixed keys.

It signs on demand and is edited like a document: publish, seal, damage. Real cryptography.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from firmware_bundles.trust import envelopes, keys, publisher, roles
from firmware_bundles.trust.keys import Key
from firmware_bundles.wire.messages import Arm, Assignment, ModelReference, Order

NOW = 1_800_000_000.0
MANIFEST = b'{"example":1}'


def signer(seed: int) -> CryptoSigner:
    """Return a key pair that is always the same for a seed."""
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")))


_ROOTS = ("root-1", "root-2", "root-3")


@dataclass
class Owners:
    """All keys, and the present file of each role; `online` are a control plane's public keys."""

    families: tuple[str, ...] = ("digits",)
    seed: int = 1000
    now: float = NOW
    version: int = 0
    online: Mapping[str, Key] = field(default_factory=dict)
    roles: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = ("root-1", "root-2", "root-3", "targets", "snapshot", "timestamp", "director")
        self.signers = {
            name: signer(self.seed + place) for place, name in enumerate((*names, *self.families))
        }
        public = {name: each.public_key for name, each in self.signers.items()} | dict(self.online)
        self.director_keys = keys.encode_public_list([public["director"]])
        self.root = publisher.create_root(
            [self.signers[f"root-{number}"] for number in (1, 2, 3)],
            targets_keys=[self.signers["targets"].public_key],
            targets_threshold=1,
            snapshot_key=public["snapshot"],
            timestamp_key=public["timestamp"],
            now=self.now,
        )
        self.roots = [self.root]
        self.roles["targets"] = publisher.create_targets(
            [self.signers["targets"]],
            families={name: self.signers[name].public_key for name in self.families},
            director_keys=self.director_keys,
            now=self.now,
        )
        for name in self.families:
            self.roles[name] = publisher.create_family(self.signers[name], now=self.now)

    def publish(
        self,
        version: str,
        manifest: bytes = MANIFEST,
        *,
        family: str = "digits",
        min_release: int | None = None,
        withdraw: tuple[str, ...] = (),
    ) -> bytes:
        """Sign one more release; returns the family's new role."""
        self.roles[family] = publisher.add_release(
            self.roles[family],
            self.signers[family],
            path=f"{family}/{version}/manifest.json",
            manifest=manifest,
            now=self.now,
            min_release=min_release,
            withdraw=withdraw,
        )
        return self.roles[family]

    def publish_many(self, count: int, family: str = "digits") -> None:
        """Sign releases 1 to `count` at once, in place of those that were there."""
        role = publisher._targets(self.roles[family])
        for number in range(1, count + 1):
            path = f"{family}/{number}/manifest.json"
            role.targets[path] = roles.release_target(path, MANIFEST, number)
        role.version += 1
        self.roles[family] = publisher._sign(role, [self.signers[family]])

    def rotate(self, *names: str) -> None:
        """Give keys of the root new successors; enough former and new root keys sign."""
        former = [self.signers[name] for name in _ROOTS]
        for place, name in enumerate(names):
            self.signers[name] = signer(self.seed + 500 + len(self.roots) * 20 + place)
        changed = {
            role: [self.signers[name].public_key for name in (_ROOTS if role == "root" else [role])]
            for role in {"root" if name in _ROOTS else name for name in names}
        }
        every = [*former, *(self.signers[name] for name in _ROOTS)]
        distinct = {each.public_key.keyid: each for each in every}
        self.roots.append(
            publisher.next_root(self.roots[-1], list(distinct.values()), keys=changed, now=self.now)
        )

    def seal(self) -> dict[str, bytes]:
        """Sign the next snapshot and timestamp; returns the repository by file name."""
        self.version += 1
        snapshot = publisher.create_snapshot(
            self.signers["snapshot"], version=self.version, files=self.roles, now=self.now
        )
        timestamp = publisher.create_timestamp(
            self.signers["timestamp"], version=self.version, snapshot=snapshot, now=self.now
        )
        files = {
            **{f"{place + 1}.root.json": root for place, root in enumerate(self.roots)},
            roles.DIRECTOR_KEYS_PATH: self.director_keys,
            f"{self.version}.snapshot.json": snapshot,
            "timestamp.json": timestamp,
        }
        for name, data in self.roles.items():
            files[roles.file_name(name, publisher.describe(data).version)] = data
        return files

    def assignment(
        self, *orders: Order, device: str = "dev-1", nonce: str | None = None, life_s: float = 600
    ) -> bytes:
        """Return an assignment that the director signed."""
        message = Assignment(
            device=device, issued=self.now, expires=self.now + life_s, orders=orders, nonce=nonce
        )
        return envelopes.sign(message, self.signers["director"])

    def order(self, version: str, *, generation: int = 1, family: str = "digits") -> Order:
        """Return an order for a published release."""
        path = f"{family}/{version}/manifest.json"
        facts = publisher.releases_in(self.roles[family])[path]
        return Order(
            family=family,
            generation=generation,
            model=ModelReference(path=path, digest=facts.digest, length=facts.length),
            rollout="r-1",
            arm=Arm.CANDIDATE,
        )
