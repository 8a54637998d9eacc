"""Baselines of published models: found by the digest of the manifest, read once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from firmware_bundles import chunks, manifest
from firmware_bundles.errors import ShoalError
from firmware_bundles.sketches.codec import parse_baseline

if TYPE_CHECKING:
    from collections.abc import Callable

    from firmware_bundles.sketches.baseline import Baseline

_LOG: Final = logging.getLogger(__name__)
_KEPT_MAX: Final = 64


class Baselines:
    """Reads baselines. `find_manifest` knows releases, `read_chunk` the bytes behind a digest."""

    def __init__(
        self, find_manifest: Callable[[str], bytes | None], read_chunk: Callable[[str], bytes]
    ) -> None:
        self._find_manifest = find_manifest
        self._read_chunk = read_chunk
        self._kept: dict[str, Baseline | None] = {}

    def find(self, model: str) -> Baseline | None:
        """Return the baseline of a model, None if it has none or is not published here."""
        if model not in self._kept:
            body = self._find_manifest(model)
            if body is None:
                return None  # it may be published later
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            self._kept[model] = self._read(model, body)
        return self._kept[model]

    def _read(self, model: str, body: bytes) -> Baseline | None:
        try:
            described = manifest.parse(body)
            if described.baseline is None:
                return None
            entry = described.file(described.baseline)
            pieces = [self._read_chunk(digest) for digest in entry.chunks]
            return parse_baseline(chunks.join(entry.digest, pieces))
        except ShoalError as error:
            _LOG.warning("baseline unreadable model=%s code=%s", model[:12], error.code)
            return None
