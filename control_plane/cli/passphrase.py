"""Where a passphrase comes from: a file, the environment, or a prompt.

The owners' keys and the backups have one each: who keeps the one need not know the other.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from firmware_bundles.errors import InputError

VARIABLE: Final = "SHOAL_KEY_PASSPHRASE"
_BYTES_MIN: Final = 8
_BYTES_MAX: Final = 1023  # OpenSSL's limit for PKCS#8

PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line is the keys' passphrase."),
]
PassphraseText = Annotated[
    str | None,
    typer.Option("--passphrase", envvar=VARIABLE, hidden=True, help="Only from the environment."),
]


BACKUP_VARIABLE: Final = "SHOAL_BACKUP_PASSPHRASE"
BackupPassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="File whose first line is the backup's passphrase."),
]
BackupPassphraseText = Annotated[
    str | None,
    typer.Option(
        "--passphrase", envvar=BACKUP_VARIABLE, hidden=True, help="Only from the environment."
    ),
]


def read(file: Path | None, text: str | None, *, is_new: bool) -> bytes:
    """Return the passphrase; asks for it, twice if it is new. Raises InputError, OSError."""
    return _read(file, text, "Passphrase of the owners' keys", VARIABLE, is_new=is_new)


def read_for_backup(file: Path | None, text: str | None, *, is_new: bool) -> bytes:
    """Return the passphrase of a backup, as `read` does."""
    return _read(file, text, "Passphrase of the backup", BACKUP_VARIABLE, is_new=is_new)


def _read(
    file: Path | None, text: str | None, question: str, variable: str, *, is_new: bool
) -> bytes:
    if file is not None:
        text = (file.read_text().splitlines() or [""])[0]
    if text is None and not sys.stdin.isatty():
        raise InputError(
            "there is no passphrase, and nobody to ask for it",
            hint=f"Set {variable}, or name a file with --passphrase-file.",
        )
    if text is None:
        text = typer.prompt(question, hide_input=True, confirmation_prompt=is_new, err=True)
    passphrase = str(text).encode()
    if not _BYTES_MIN <= len(passphrase) <= _BYTES_MAX:
        raise InputError(f"a passphrase has {_BYTES_MIN} to {_BYTES_MAX} bytes")
    return passphrase
