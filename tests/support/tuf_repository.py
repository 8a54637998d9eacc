"""Any TUF repository, made with python-tuf and served by a real HTTP server that counts requests.

Edited like a document and published as a whole; nothing of this project takes part in making it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeVar
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

RoleT = TypeVar("RoleT", Root, Timestamp, Snapshot, Targets)
TOP_ROLES = ("root", "timestamp", "snapshot", "targets")


class TufRepository:
    """A repository with one key a role; `files` is what the server serves, by path."""

    def __init__(self, *, is_consistent: bool = True) -> None:
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        self.later = later
        self.signers = {role: [CryptoSigner.generate_ed25519()] for role in TOP_ROLES}
        self.root = Root(expires=later, consistent_snapshot=is_consistent)
        self.timestamp = Timestamp(expires=later)
        self.snapshot = Snapshot(expires=later)
        self.targets = Targets(expires=later)
        self.delegated: dict[str, Targets] = {}
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken: dict[str, int] = {}
        for role in TOP_ROLES:
            self.root.add_key(self.signers[role][0].public_key, role)
        self.publish_root()
        self.publish()

    @property
    def first_root(self) -> bytes:
        """The root that clients begin with."""
        return self.files["/metadata/1.root.json"]

    def publish_root(self, *former: CryptoSigner) -> None:
        """Sign the root as it stands with its own keys and with `former` ones."""
        self._put("root", self.root, self.root.version, [*self.signers["root"], *former])

    def rotate(self, role: str) -> None:
        """Give a role a new key, and publish the next root."""
        former = self.signers[role]
        self.signers[role] = [CryptoSigner.generate_ed25519()]
        for signer in former:
            self.root.revoke_key(signer.public_key.keyid, role)
        self.root.add_key(self.signers[role][0].public_key, role)
        self.root.version += 1
        self.publish_root(*(former if role == "root" else ()))

    def delegate(
        self, role: str, paths: list[str], *, parent: str = "targets", terminating: bool = False
    ) -> Targets:
        """Add a delegated role with a key of its own."""
        signer = CryptoSigner.generate_ed25519()
        self.signers[role] = [signer]
        holder = self.targets if parent == "targets" else self.delegated[parent]
        if holder.delegations is None:
            holder.delegations = Delegations(keys={}, roles={})
        assert holder.delegations.roles is not None
        holder.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, paths=paths)
        holder.add_key(signer.public_key, role)
        self.delegated[role] = Targets(expires=self.later)
        return self.delegated[role]

    def add_target(self, path: str, data: bytes, role: str = "targets") -> None:
        """List a target and put its file under the plain and the hashed name."""
        holder = self.targets if role == "targets" else self.delegated[role]
        target = TargetFile.from_data(path, data, ["sha256"])
        holder.targets[path] = target
        folder, slash, name = path.rpartition("/")
        hashed = f"{folder}{slash}{target.hashes['sha256']}.{name}"
        self.files[f"/targets/{quote(hashed if self.root.consistent_snapshot else path)}"] = data

    def publish(self) -> None:
        """Sign all roles below root with the next version of snapshot and timestamp."""
        roles = {"targets": self.targets, **self.delegated}
        for role, signed in roles.items():
            data = self._put(role, signed, signed.version)
            self.snapshot.meta[f"{role}.json"] = MetaFile.from_data(
                signed.version, data, ["sha256"]
            )
        data = self._put("snapshot", self.snapshot, self.snapshot.version)
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        self._put("timestamp", self.timestamp, None)

    def bump(self) -> None:
        """Publish with every version but root's one higher."""
        for signed in (self.timestamp, self.snapshot, self.targets, *self.delegated.values()):
            signed.version += 1
        self.publish()

    def _put(
        self,
        role: str,
        signed: RoleT,
        version: int | None,
        signers: list[CryptoSigner] | None = None,
    ) -> bytes:
        metadata = Metadata(signed)
        for signer in self.signers[role] if signers is None else signers:
            metadata.sign(signer, append=True)
        data = metadata.to_bytes()
        is_versioned = version is not None and (role == "root" or self.root.consistent_snapshot)
        prefix = f"{version}." if is_versioned else ""
        self.files[f"/metadata/{prefix}{quote(role, safe='')}.json"] = data
        return data

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Serve `files` while the block runs; gives the address."""
        repository = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                repository.requests.append(self.path)
                data = repository.files.get(self.path)
                status = repository.broken.get(self.path, 404 if data is None else 200)
                self.send_response(status)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()
