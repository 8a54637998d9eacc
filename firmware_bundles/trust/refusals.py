"""TUF's refusals, told in the words of this project."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tuf.api import exceptions as tuf_errors

from firmware_bundles.errors import (
    DigestMismatch,
    MetadataExpired,
    MetadataMissing,
    RollbackAttempt,
    SignatureInvalid,
    TrustError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise TUF's refusals as ours; the more particular class stands first."""
    try:
        yield
    except tuf_errors.UnsignedMetadataError as error:
        raise SignatureInvalid(f"{what}: {error}") from error
    except tuf_errors.BadVersionNumberError as error:
        raise RollbackAttempt(f"{what}: {error}") from error
    except tuf_errors.ExpiredMetadataError as error:
        raise MetadataExpired(f"{what}: {error}") from error
    except (
        tuf_errors.LengthOrHashMismatchError,
        tuf_errors.DownloadLengthMismatchError,
    ) as error:
        raise DigestMismatch(f"{what}: {error}") from error
    except tuf_errors.DownloadError as error:
        raise MetadataMissing(f"{what}: {error}") from error
    except (tuf_errors.RepositoryError, ValueError, RecursionError) as error:
        raise TrustError(f"{what} cannot be used: {error!s:.300}") from error
