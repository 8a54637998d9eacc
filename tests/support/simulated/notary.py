"""Verifies what devices collected. The same bytes are verified once for all who hold them.

A real device verifies by itself, in a task; a thousand of them on two processors would measure
nothing but that. An assignment is verified for each device, whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from firmware_bundles.trust import floors, verifier
from firmware_bundles.trust.floors import Mark
from firmware_bundles.trust.verifier import Repository
from firmware_bundles.wire.messages import Assignment


class Notary:
    """The verified repositories of this process, by the bytes that they were made of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[bytes, Repository] = {}

    def repository(
        self, root: bytes, files: Mapping[str, bytes], known: Mapping[str, Mark]
    ) -> Repository:
        """Return the repository in these files. Raises what `verifier.refresh` does."""
        name = hashlib.sha256(root)
        for each in sorted(files):
            name.update(each.encode() + b"\0" + hashlib.sha256(files[each]).digest())
        digest = name.digest()
        if digest not in self._known:
            place = self._folder / name.hexdigest()
            self._known[digest] = verifier.refresh(place, root, files, time.time())
        floors.check(known, self._known[digest].marks)
        return self._known[digest]

    def admit(
        self,
        repository: Repository,
        envelope: bytes,
        device: str,
        generations: Mapping[str, int],
        nonce: str | None,
    ) -> Assignment:
        """Return an assignment, verified for this device. Raises what `verifier.admit` does."""
        return verifier.admit(
            repository,
            envelope,
            device=device,
            generations=generations,
            nonce=nonce,
            now=time.time(),
        )
