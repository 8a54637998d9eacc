"""The keys that the control plane signs with by itself: snapshot, timestamp and director.

They choose among what the owners allow and say what is newest; they can make nothing trusted. Each
is a PKCS#8 file that only the service's user may read. A successor waits in a file of its own until
the owners name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from firmware_bundles.errors import NotFound
from firmware_bundles.trust import keys
from firmware_bundles.trust.succession import OnlineKey

if TYPE_CHECKING:
    from pathlib import Path

    from firmware_bundles.trust.keys import Key


@dataclass(frozen=True, kw_only=True)
class OnlineKeys:
    """The three online signers."""

    snapshot: OnlineKey
    timestamp: OnlineKey
    director: OnlineKey

    @classmethod
    def load_or_create(cls, directory: Path) -> OnlineKeys:
        """Return the keys in `directory`, making those that are not there.

        Raises InputError, OSError.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(
            snapshot=OnlineKey(directory / "snapshot.pem"),
            timestamp=OnlineKey(directory / "timestamp.pem"),
            director=OnlineKey(directory / "director.pem"),
        )

    def prepare(self, role: str) -> Key:
        """Return the public half of a role's next key. Raises NotFound, OSError."""
        signers = {
            "snapshot": self.snapshot,
            "timestamp": self.timestamp,
            "director": self.director,
        }
        if role not in signers:
            raise NotFound(
                f"{role!r:.40} is no online role", hint=f"They are {', '.join(signers)}."
            )
        return signers[role].prepare()

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
