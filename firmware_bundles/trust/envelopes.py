"""Signed envelopes (DSSE v1.0) for assignments and reports.

A thin layer over securesystemslib: it fixes payload types, sizes and errors. Which key is the right
one is decided by the caller. Heavy: imported by tasks and by the control plane, never by the
agent's core.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, TypeVar

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, MessageTooLarge, ShoalError, SignatureInvalid
from firmware_bundles.wire import codec, messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from securesystemslib.signer import Key, Signer

SignedT = TypeVar("SignedT", messages.Assignment, messages.Report)

PAYLOAD_TYPES: Final[dict[type[messages.Message], str]] = {
    messages.Assignment: "application/vnd.shoal.assignment+json",
    messages.Report: "application/vnd.shoal.report+json",
}
# Base64 adds a third; signatures and field names are small.
_ENVELOPE_BYTES_MAX: Final[dict[type[messages.Message], int]] = {
    messages.Assignment: limits.ASSIGNMENT_BYTES_MAX * 4 // 3 + 2048,
    messages.Report: limits.REPORT_BYTES_MAX * 4 // 3 + 2048,
}


def sign(message: messages.Assignment | messages.Report, signer: Signer) -> bytes:
    """Return the envelope of a message, signed once."""
    envelope = Envelope(codec.encode(message), PAYLOAD_TYPES[type(message)], {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def open_envelope(kind: type[SignedT], data: bytes, keys: Sequence[Key]) -> SignedT:
    """Return the message of an envelope that at least one of `keys` signed.

    Nothing of the payload is read before the signature holds (DSSE protocol, section "Verify").
    Raises MessageTooLarge, Malformed, SignatureInvalid, VersionUnsupported.
    """
    if len(data) > _ENVELOPE_BYTES_MAX[kind]:
        raise MessageTooLarge(f"{kind.__name__} envelope of {len(data)} bytes is too large")
    try:
        envelope = Envelope.from_dict(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Malformed(f"{kind.__name__} envelope cannot be read: {error}") from error
    if envelope.payload_type != PAYLOAD_TYPES[kind]:
        raise Malformed(f"an envelope of type {envelope.payload_type!r:.80} is no {kind.__name__}")
    try:
        envelope.verify(list(keys), 1)
    except (VerificationError, ValueError) as error:
        raise SignatureInvalid(
            f"{kind.__name__} envelope is signed by none of the {len(keys)} keys that may"
        ) from error
    return codec.decode(kind, envelope.payload)


def peek(kind: type[SignedT], data: bytes) -> SignedT | None:
    """Return what an envelope claims, with nothing verified; None if it cannot be read."""
    if len(data) > _ENVELOPE_BYTES_MAX[kind]:
        return None
    try:
        envelope = Envelope.from_dict(json.loads(data))
        return codec.decode(kind, envelope.payload)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ShoalError):
        return None


def device_key(device: str, public_pem: bytes) -> SSlibKey:
    """Return a device's public key; its key id is the device's id."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return SSlibKey.from_crypto(load_pem_public_key(public_pem), keyid=device)


def device_signer(device: str, private_pem: bytes) -> CryptoSigner:
    """Return what signs with a device's private key (PKCS#8 PEM); its key id is the device's id."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(private_pem, None)
    if not isinstance(private, EllipticCurvePrivateKey):
        raise Malformed("the device's key is no elliptic curve key")
    return CryptoSigner(private, SSlibKey.from_crypto(private.public_key(), keyid=device))
