"""Ed25519 keys: made, kept as PKCS#8, told to others. Which may do what stands in `roles`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer

from firmware_bundles import limits
from firmware_bundles.errors import InputError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Key",
    "Signer",
    "decode_private",
    "encode_private",
    "encode_public",
    "encode_public_list",
    "generate",
    "parse_public",
    "parse_public_list",
]


def generate() -> CryptoSigner:
    """Return a new key pair that can sign."""
    return CryptoSigner(Ed25519PrivateKey.generate())


def encode_private(signer: CryptoSigner, passphrase: bytes | None) -> bytes:
    """Return the key as PKCS#8 PEM, encrypted unless `passphrase` is None."""
    private = serialization.load_pem_private_key(signer.private_bytes, None)
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase is not None
        else serialization.NoEncryption()
    )
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def decode_private(pem: bytes, passphrase: bytes | None, what: str) -> CryptoSigner:
    """Return the key of a PKCS#8 PEM; `what` names it in errors. Raises InputError."""
    try:
        private = serialization.load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{what} cannot be opened: wrong passphrase, or no PKCS#8 key",
            hint="The passphrase comes from --passphrase-file, SHOAL_KEY_PASSPHRASE or a prompt.",
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{what} is no Ed25519 key")
    return CryptoSigner(private)


def encode_public(key: Key) -> dict[str, Any]:
    """Return a public key as a JSON object that carries its id."""
    return {"keyid": key.keyid, **key.to_dict()}


def parse_public(document: object) -> Key:
    """Read what `encode_public` wrote. Raises Malformed."""
    try:
        fields = dict(document)  # type: ignore[call-overload]
        return Key.from_dict(str(fields.pop("keyid")), fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Malformed(f"a public key cannot be read: {error!r:.200}") from error


def encode_public_list(keys: Iterable[Key]) -> bytes:
    """Return the bytes of a target that lists public keys."""
    return json.dumps({"keys": [encode_public(key) for key in keys]}, sort_keys=True).encode()


def parse_public_list(data: bytes) -> list[Key]:
    """Read what `encode_public_list` wrote. Raises Malformed."""
    if len(data) > limits.REPOSITORY_FILE_BYTES_MAX:
        raise Malformed(f"a list of keys has {len(data)} bytes, too many")
    try:
        documents = json.loads(data)["keys"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Malformed(f"a list of keys cannot be read: {error!r:.200}") from error
    if not isinstance(documents, list):
        raise Malformed("a list of keys holds no list")
    return [parse_public(document) for document in documents]
