"""`shoal release`: sign a bundle at home, publish it, see what is published."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from control_plane.cli import ceremonies, http, output, passphrase
from firmware_bundles import build, chunks, durable
from firmware_bundles.errors import InputError
from firmware_bundles.identifiers import target_path
from firmware_bundles.trust import key_folder, publisher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from firmware_bundles.chunks import Chunk
    from firmware_bundles.trust.keys import Signer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_ROLE_SUFFIX: Final = ".role.json"
BundleFolder = Annotated[Path, typer.Argument(help="A bundle folder.", show_default=False)]

KeyFolder = Annotated[Path, typer.Option("--keys", help="Folder that 'keys init' wrote.")]
FamilyName = Annotated[str, typer.Argument(help="The model family.", show_default=False)]


@app.command()
def sign(
    bundle: BundleFolder,
    *,
    folder: Annotated[Path, typer.Option("--keys", help="Folder that 'keys init' wrote.")],
    min_release: Annotated[
        int | None, typer.Option(help="Allow only releases with this number and newer from now on.")
    ] = None,
    withdraw: Annotated[
        list[str] | None, typer.Option(help="VERSION that may no longer run, may be repeated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the signed role; default BUNDLE.role.json.")
    ] = None,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Sign a bundle as the next release of its family.

    \b
    Examples:
      shoal release sign digits-1 --keys keys
      shoal release sign digits-2 --keys keys --min-release 2
    """
    checked = build.verify_bundle(bundle)
    family = checked.manifest.family
    secret = passphrase.read(passphrase_file, passphrase_text, is_new=False)
    signer = key_folder.family_signer(folder, family, secret)
    with http.connect() as api:
        current = api.get_bytes(f"trust/roles/{family}")
    path = target_path(family, checked.manifest.version)
    role = publisher.add_release(
        current,
        signer,
        path=path,
        manifest=checked.manifest_bytes,
        now=time.time(),
        min_release=min_release,
        withdraw=[target_path(family, version) for version in withdraw or ()],
    )
    file = out or _role_file(bundle)
    durable.write(file, role)
    facts, floor = publisher.releases_in(role)[path], publisher.floor_in(role)
    output.show_one(
        {
            "release": path,
            "number": facts.number,
            "digest": facts.digest,
            "min_release": floor.min_release,
            "withdrawn": list(floor.withdrawn),
            "role": str(file),
        }
    )


@app.command()
def publish(
    bundle: BundleFolder,
    *,
    role: Annotated[
        Path | None, typer.Option(help="The signed role; default BUNDLE.role.json.")
    ] = None,
) -> None:
    """Upload a signed bundle; it becomes visible whole or not at all.

    \b
    Example:
      shoal release publish digits-1
    """
    checked = build.verify_bundle(bundle)
    file = role or _role_file(bundle)
    if not file.exists():
        raise InputError(f"{file} is not there", hint=f"Sign first: shoal release sign {bundle}.")
    with http.connect() as api:
        uploaded = _upload_chunks(api, checked)
        answer = api.post(
            "releases",
            json={"role": file.read_text(), "manifest": checked.manifest_bytes.decode()},
        )
    shown = {**answer, "chunks_uploaded": uploaded}
    output.show_one(shown, dict.fromkeys(shown, str) | {"published": _time})


@app.command()
def withdraw(
    family: FamilyName,
    version: Annotated[list[str], typer.Argument(help="VERSION...", show_default=False)],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Forbid releases from now on; where one runs, it goes on until it is replaced.

    \b
    Example:
      shoal release withdraw digits 2 --keys keys
    """
    signer = _family_signer(folder, family, passphrase_file, passphrase_text)
    paths = [target_path(family, each) for each in version]
    with http.connect() as api:
        terms = ceremonies.change_terms(api, signer, family, withdraw=paths)
    output.show_one({"family": family, "withdrawn": list(terms.withdrawn)})


@app.command()
def floor(
    family: FamilyName,
    number: Annotated[int, typer.Argument(help="The lowest number allowed.", show_default=False)],
    *,
    folder: KeyFolder,
    passphrase_file: passphrase.PassphraseFile = None,
    passphrase_text: passphrase.PassphraseText = None,
) -> None:
    """Allow only releases with this number and newer from now on; a floor never sinks.

    \b
    Example:
      shoal release floor digits 3 --keys keys
    """
    signer = _family_signer(folder, family, passphrase_file, passphrase_text)
    with http.connect() as api:
        terms = ceremonies.change_terms(api, signer, family, min_release=number)
    output.show_one({"family": family, "min_release": terms.min_release})


@app.command("list")
def list_releases(
    *, family: Annotated[str | None, typer.Option(help="Only this family's.")] = None
) -> None:
    """List published releases.

    \b
    Example:
      shoal release list --family digits
    """
    with http.connect() as api:
        rows = api.get("releases", family=family)
    output.show(rows, _COLUMNS, empty="no releases yet")


@app.command("show")
def show_release(
    family: FamilyName,
    version: Annotated[str, typer.Argument(help="The version.", show_default=False)],
) -> None:
    """Show a release: the patches that lead to it, and what came to devices by patch and in full.

    \b
    Example:
      shoal release show digits 2
    """
    with http.connect() as api:
        found = api.get(f"releases/{family}/{version}")
    if output.is_json():
        output.show_json(found)
        return
    facts = {name: value for name, value in found.items() if name not in {"patches", "transfers"}}
    output.show_one(facts, dict.fromkeys(facts, str) | {"published": _time})
    output.show(found["patches"], _PATCH_COLUMNS, empty="no patches to it")
    output.show_one(found["transfers"])


def _family_signer(folder: Path, family: str, file: Path | None, text: str | None) -> Signer:
    return key_folder.family_signer(folder, family, passphrase.read(file, text, is_new=False))


def _upload_chunks(api: http.Api, bundle: build.Bundle) -> int:
    wanted = list(bundle.manifest.chunks())
    missing = set(api.post("chunks/missing", json={"digests": wanted})["missing"])
    uploaded = 0
    for chunk in _chunks(bundle):
        if chunk.digest in missing:
            api.put(f"chunks/{chunk.digest}", content=chunk.data)
            missing.remove(chunk.digest)
            uploaded += 1
    return uploaded


def _chunks(bundle: build.Bundle) -> Iterator[Chunk]:
    for entry in bundle.manifest.files:
        yield from chunks.cut(bundle.file_bytes(entry.name))


def _role_file(bundle: Path) -> Path:
    folder = bundle.resolve()
    return folder.with_name(f"{folder.name}{_ROLE_SUFFIX}")


def _time(value: object) -> str:
    if not isinstance(value, int | float):
        return "-"
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


_PATCH_COLUMNS: Final = ("source", "file", "length", "full_length", "is_used")
_COLUMNS: Final[dict[str, Callable[[object], str]]] = {
    "family": str,
    "version": str,
    "number": str,
    "digest": lambda value: str(value)[:12],
    "is_withdrawn": lambda value: "yes" if value else "no",
    "published": _time,
}
