"""The accelerators that this device's owner configured: `inference.toml` in the state directory.

    [[delegate]]
    kind = "external"
    name = "edgetpu"
    library = "/usr/lib/aarch64-linux-gnu/libedgetpu.so.1"
    exclusive = true

They are tried in order; what none of them may serve, the CPU serves. Light: the core reads it too.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from firmware_bundles.errors import ConfigInvalid
from firmware_bundles.identifiers import AcceleratorName

FILE_NAME: Final = "inference.toml"
CPU: Final = "cpu"

_FILE_BYTES_MAX: Final = 64 * 1024
_File = Annotated[str, Meta(pattern=r"^/[^\x00]{1,4000}\Z")]
_Seconds = Annotated[float, Meta(ge=0.05, le=600)]
_Pause = Annotated[float, Meta(ge=0.05, le=7 * 86400)]
_Text = Annotated[str, Meta(max_length=4096)]


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both kinds have.

    `exclusive`: only one process may open it, so it has none of its own; the worker probes it.
    `may_be_slower`: it is worth having although the CPU is faster, for instance to save energy.
    `probe_s_max` ends a probe, `invoke_s_max` one inference. A delegate that was lost or refused is
    tried again after `retry_s`, then after twice as long; one that serves is held against the
    golden vectors each `check_s`.
    """

    name: AcceleratorName
    exclusive: bool = False
    may_be_slower: bool = False
    probe_s_max: _Seconds = 10.0
    invoke_s_max: _Seconds = 1.0
    retry_s: _Pause = 3600.0
    check_s: _Pause = 60.0


class External(
    _Entry, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="external"
):
    """A shared library with `tflite_plugin_create_delegate`, and the options that it is given."""

    library: _File
    options: Annotated[dict[_Text, _Text | int | float | bool], Meta(max_length=64)] = {}


class Compiled(
    _Entry, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="compiled"
):
    """An accelerator of LiteRT's CompiledModel.

    `preload` are libraries that the plug-ins need and would not find. Without `compiler` and
    `dispatch`, folders of plug-ins, LiteRT takes the first that it ships.
    """

    accelerator: Literal["gpu", "npu"]
    preload: Annotated[tuple[_File, ...], Meta(max_length=64)] = ()
    compiler: _File | None = None
    dispatch: _File | None = None
    openvino_device: Literal["cpu", "gpu", "npu"] | None = None


Delegate = External | Compiled


class _Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    delegate: Annotated[tuple[Delegate, ...], Meta(max_length=32)] = ()


def load(state_dir: Path) -> tuple[Delegate, ...]:
    """Return the delegates in the order in which they are tried; none without the file.

    Raises ConfigInvalid.
    """
    path = state_dir / FILE_NAME
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise ConfigInvalid(f"{path} is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return parse(data)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{path}: {error.message}", hint=error.hint) from error


def parse(data: bytes) -> tuple[Delegate, ...]:
    """Read the file's content. Raises ConfigInvalid."""
    try:
        found = msgspec.convert(tomllib.loads(data.decode()), _Settings).delegate
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigInvalid(f"it is not TOML: {error}") from error
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigInvalid(
            f"it is not valid: {error}", hint="docs/reference/settings.md has all names."
        ) from error
    names = [each.name for each in found]
    if len({*names, CPU}) <= len(names):
        raise ConfigInvalid(f"each [[delegate]] needs a name of its own, and none is {CPU!r}")
    return found
