"""The page's own files and the vendored ones, read once: a closed list, no path is ever joined."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

_MEDIA_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
NAMES: Final = (
    "drift.js",
    "page.css",
    "page.js",
    "rollout.js",
    "shoal.svg",
    "times.js",
    "vendor/htmx.min.js",
    "vendor/hx-sse.min.js",
    "vendor/uPlot.iife.min.js",
    "vendor/uPlot.min.css",
)


class StaticFile(NamedTuple):
    """A file with what HTTP says of it."""

    data: bytes
    media_type: str
    tag: str


def read_all() -> dict[str, StaticFile]:
    """Return the files by name."""
    folder = files("control_plane.web") / "static"
    return {name: _static_file(name, (folder / name).read_bytes()) for name in NAMES}


def _static_file(name: str, data: bytes) -> StaticFile:
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return StaticFile(data, _MEDIA_TYPES[name.rpartition(".")[2]], tag)
