"""A key in a file that signs by itself, and the successor that waits beside it.

The successor takes over once the owners name it; whoever holds the signer notices nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from securesystemslib.signer import Key, Signer

from firmware_bundles import durable
from firmware_bundles.errors import SignatureInvalid
from firmware_bundles.trust import keys

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from securesystemslib.signer import SecretsHandler, Signature


class OnlineKey(Signer):
    """Signs with one key, which can be succeeded by another while others hold this object."""

    def __init__(self, path: Path) -> None:
        """Read the key, or make it. Raises InputError, OSError."""
        self._path = path
        self._next_path = path.with_name(f"{path.stem}.next.pem")
        self._present = _load_or_create(path)
        self._next = _load(self._next_path) if self._next_path.exists() else None

    @property
    def public_key(self) -> Key:
        """The public half of the key that signs now."""
        return self._present.public_key

    def sign(self, payload: bytes) -> Signature:
        """Sign with the present key."""
        return self._present.sign(payload)

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> NoReturn:
        """Refuse: these keys are files in one folder. Raises NotImplementedError."""
        raise NotImplementedError(priv_key_uri, public_key, secrets_handler)

    def prepare(self) -> Key:
        """Return the successor's public half, made at the first call. Raises OSError."""
        if self._next is None:
            self._next = _load_or_create(self._next_path)
        return self._next.public_key

    def among(self, keyids: Collection[str]) -> Signer:
        """Return the key, present or next, that the owners allow. Raises SignatureInvalid."""
        for signer in (self._next, self._present):
            if signer is not None and signer.public_key.keyid in keyids:
                return signer
        raise SignatureInvalid(
            f"the owners do not allow this control plane's {self._path.stem} key"
        )

    def settle(self, keyids: Collection[str]) -> None:
        """Let the successor take over once the owners name it. Repeatable. Raises OSError."""
        if self._next is not None and self._next.public_key.keyid in keyids:
            self._next_path.replace(self._path)
            durable.sync_directory(self._path.parent)
            self._present, self._next = self._next, None


def _load_or_create(path: Path) -> Signer:
    if not path.exists():
        durable.write(path, keys.encode_private(keys.generate(), None), mode=0o600)
    return _load(path)


def _load(path: Path) -> Signer:
    return keys.decode_private(path.read_bytes(), None, f"key file {path.name}")
