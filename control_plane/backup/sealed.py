"""The encrypted file: a header, then frames that can be neither changed, reordered nor cut off.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizar, 2015) as the file format age uses
it: ChaCha20-Poly1305 in frames of 64 KiB, the nonce a counter and a mark on the last frame. The key
comes from the passphrase by scrypt (RFC 7914) with a salt of its own, so no nonce is used twice;
the header is authenticated with every frame. What the bytes mean stands in `records`.
"""

from __future__ import annotations

import secrets
from typing import IO, TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from firmware_bundles.errors import BackupUnreadable

if TYPE_CHECKING:
    from types import TracebackType

MAGIC: Final = b"shoal-backup\n"
VERSION: Final = 1
FRAME_BYTES: Final = 64 * 1024
# Base-2 logarithm of scrypt's cost: 17 takes 128 MiB and half a second (OWASP, 2024).
COST_DEFAULT: Final = 17
COST_MIN: Final = 14
# 256 MiB: nobody's file makes a small machine run out of memory.
COST_MAX: Final = 18
_BLOCK_SIZE: Final = 8
_SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16
_COUNTER_BYTES: Final = 11
_HEADER_BYTES: Final = len(MAGIC) + 2 + _SALT_BYTES


class SealingWriter:
    """Encrypts what is written; a context manager, whose orderly end seals the last frame."""

    def __init__(self, file: IO[bytes], passphrase: bytes, *, cost: int = COST_DEFAULT) -> None:
        salt = secrets.token_bytes(_SALT_BYTES)
        self._header = MAGIC + bytes([VERSION, cost]) + salt
        self._cipher = _cipher(passphrase, salt, cost)
        self._file = file
        self._waiting = bytearray()
        self._count = 0
        file.write(self._header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._seal(is_last=True)

    def write(self, data: bytes) -> None:
        """Add bytes. Raises OSError."""
        self._waiting += data
        while len(self._waiting) > FRAME_BYTES:
            self._seal(is_last=False)

    def _seal(self, *, is_last: bool) -> None:
        frame = bytes(self._waiting[:FRAME_BYTES])
        del self._waiting[:FRAME_BYTES]
        nonce = _nonce(self._count, is_last=is_last)
        self._file.write(self._cipher.encrypt(nonce, frame, self._header))
        self._count += 1


class SealedReader:
    """Gives back what was written, only whole frames that are proven. Raises BackupUnreadable."""

    def __init__(self, file: IO[bytes], passphrase: bytes) -> None:
        self._header = file.read(_HEADER_BYTES)
        cost, salt = _parse_header(self._header)
        self._cipher = _cipher(passphrase, salt, cost)
        self._file = file
        self._ahead = file.read(FRAME_BYTES + _TAG_BYTES)
        self._open = bytearray()
        self._count = 0

    @property
    def is_at_end(self) -> bool:
        """Whether all was read; known only after the last frame was proven."""
        if not self._open and (self._ahead or self._count == 0):
            self._next_frame()
        return not self._open and not self._ahead

    def read(self, length: int) -> bytes:
        """Return exactly so many bytes."""
        while len(self._open) < length:
            if not self._ahead:
                raise BackupUnreadable("the backup ends in the middle of a record")
            self._next_frame()
        taken = bytes(self._open[:length])
        del self._open[:length]
        return taken

    def _next_frame(self) -> None:
        frame, self._ahead = self._ahead, self._file.read(FRAME_BYTES + _TAG_BYTES)
        nonce = _nonce(self._count, is_last=not self._ahead)
        try:
            self._open += self._cipher.decrypt(nonce, frame, self._header)
        except InvalidTag as error:
            raise _broken(self._count) from error
        self._count += 1


def _parse_header(header: bytes) -> tuple[int, bytes]:
    if len(header) < _HEADER_BYTES or not header.startswith(MAGIC):
        raise BackupUnreadable("this file is no backup of a control plane")
    version, cost = header[len(MAGIC)], header[len(MAGIC) + 1]
    if version != VERSION:
        raise BackupUnreadable(
            f"the backup has format {version}; this shoal reads format {VERSION}",
            hint="Restore it with the release of shoal that made it, or a newer one.",
        )
    if not COST_MIN <= cost <= COST_MAX:
        raise BackupUnreadable(f"the backup asks for a key of cost {cost}, which is out of range")
    return cost, header[len(MAGIC) + 2 :]


def _cipher(passphrase: bytes, salt: bytes, cost: int) -> ChaCha20Poly1305:
    scrypt = Scrypt(salt=salt, length=_KEY_BYTES, n=2**cost, r=_BLOCK_SIZE, p=1)
    return ChaCha20Poly1305(scrypt.derive(passphrase))


def _nonce(count: int, *, is_last: bool) -> bytes:
    return count.to_bytes(_COUNTER_BYTES, "big") + bytes([is_last])


def _broken(count: int) -> BackupUnreadable:
    if count == 0:
        return BackupUnreadable(
            "the backup cannot be opened: another passphrase, or a changed file"
        )
    return BackupUnreadable(
        f"the backup is damaged or cut off: frame {count} is not what was written",
        hint="Copy the file again, or take another backup.",
    )
