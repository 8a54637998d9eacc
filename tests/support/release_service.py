"""The part of a control plane that keeps releases, over a real database, without a broker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from control_plane.api import problems, releases
from control_plane.api.auth import Access, Role
from control_plane.fleet import credentials
from control_plane.releases.announcer import Announcer
from control_plane.releases.chunk_files import ChunkFiles
from control_plane.releases.online_keys import OnlineKeys
from control_plane.releases.publisher import Publisher
from control_plane.releases.registry import Registry
from control_plane.releases.repository import Bootstrap, ModelsRepository
from control_plane.store.access import AccessTokens, TokenRow
from control_plane.store.database import Database
from control_plane.store.patches import Patches
from control_plane.store.releases import Releases
from firmware_bundles.trust import verifier
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import RepositoryHint
from support.owners import Owners


@dataclass
class Retained:
    """What a broker would retain, and all that was sent, in order."""

    messages: dict[str, bytes] = field(default_factory=dict)
    topics: list[str] = field(default_factory=list)

    def __call__(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Take one message."""
        assert retain
        self.topics.append(topic)
        if payload:
            self.messages[topic] = payload
        else:
            self.messages.pop(topic, None)


class ReleaseService:
    """Everything wired as `shoal serve` wires it; `now` may be moved."""

    def __init__(
        self, directory: Path, now: float, *, retained_bytes_max: int = 256 * 1024 * 1024
    ) -> None:
        self.now = now
        self.database = Database.open(f"sqlite:///{directory / 'shoal.db'}")
        store = Releases(self.database)
        self.chunk_files = ChunkFiles(directory / "chunks")
        self.online_keys = OnlineKeys.load_or_create(directory / "keys")
        self.repository = ModelsRepository(store, self.chunk_files, self.online_keys, self._clock)
        self.registry = Registry(store, self.chunk_files)
        self.retained = Retained()
        self.patches = Patches(self.database)
        self.publisher = Publisher(
            self.repository,
            store,
            self.chunk_files,
            self.retained,
            self.patches,
            retained_bytes_max=retained_bytes_max,
        )
        self._tokens = AccessTokens(self.database)
        self.app = FastAPI()
        problems.install(self.app)
        self.app.include_router(
            releases.router(
                repository=self.repository,
                registry=self.registry,
                patches=self.patches,
                chunk_files=self.chunk_files,
                publisher=self.publisher,
                online_keys=self.online_keys,
                access=Access(self._tokens, b"k" * 32, self._clock),
            ),
            prefix="/api/v1",
        )

    def begin(self, *, releases: int = 0) -> Owners:
        """Lay a root of trust for the family `digits`, with so many releases that have no files."""
        owners = Owners(now=self.now, online=self.online_keys.public())
        owners.publish_many(releases)
        self.repository.begin(
            Bootstrap(
                owners.root,
                owners.roles["targets"],
                owners.director_keys,
                {"digits": owners.roles["digits"]},
            )
        )
        return owners

    def as_device(self, cache: Path) -> verifier.Repository:
        """Return what a device makes of the retained messages, found through the hint."""
        messages = self.retained.messages
        hint = codec.decode(RepositoryHint, messages[topics.REPOSITORY_HINT])
        files = {name: messages[topics.repository_file(name)] for name in hint.files}
        return verifier.refresh(cache, files[f"{hint.root}.root.json"], files, self.now)

    def announcer(self) -> Announcer:
        """Return what keeps a broker told that just connected."""
        announcer = Announcer(
            self.publisher,
            self.repository,
            flush=lambda _timeout_s: True,
            save=lambda: None,
            clock=self._clock,
        )
        announcer.broker_connected()
        return announcer

    def token(self, role: Role) -> str:
        """Return a new API token of this role."""
        fresh = credentials.mint(credentials.Kind.API)
        row = TokenRow(fresh.prefix, fresh.digest, role.value, role.value, self.now)
        self._tokens.add(row)
        return fresh.text

    def _clock(self) -> float:
        return self.now
