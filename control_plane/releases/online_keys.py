"""The keys that the control plane signs with by itself: snapshot, timestamp and director.

They choose among what the owners allow and say what is newest; they can make nothing trusted. Each
is a PKCS#8 file that only the service's user may read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firmware_bundles import durable
from firmware_bundles.trust import keys

if TYPE_CHECKING:
    from pathlib import Path

    from firmware_bundles.trust.keys import Key, Signer


@dataclass(frozen=True, kw_only=True)
class OnlineKeys:
    """The three online signers."""

    snapshot: Signer
    timestamp: Signer
    director: Signer

    @classmethod
    def load_or_create(cls, directory: Path) -> OnlineKeys:
        """Return the keys in `directory`, making those that are not there.

        Raises InputError, OSError.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(
            snapshot=_load_or_create(directory / "snapshot.pem"),
            timestamp=_load_or_create(directory / "timestamp.pem"),
            director=_load_or_create(directory / "director.pem"),
        )

    def public(self) -> dict[str, Key]:
        """Return the public halves by role."""
        return {
            "snapshot": self.snapshot.public_key,
            "timestamp": self.timestamp.public_key,
            "director": self.director.public_key,
        }

    def public_document(self) -> dict[str, Any]:
        """Return the public halves as JSON objects, for the owners to delegate to."""
        return {role: keys.encode_public(key) for role, key in self.public().items()}


def _load_or_create(path: Path) -> Signer:
    if not path.exists():
        durable.write(path, keys.encode_private(keys.generate(), None), mode=0o600)
    return keys.decode_private(path.read_bytes(), None, f"key file {path.name}")
