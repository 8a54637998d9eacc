"""The HTTPS addresses that a device may fetch chunks from, asked by a child of the core.

The mirrors of the settings come first, the control plane last: a mirror is nearer, or it would not
be there. How a chunk is fetched stands in `web_chunks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.task_messages import CHUNKS_PER_FETCH_MAX, FetchChunks, FetchedChunks
from firmware_bundles.errors import from_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from agent.children import Children

_TIMEOUT_S: Final = 8.0
_CONTROL_PLANE_PATH: Final = "/api/v1/chunks/{digest}"
_PLACE: Final = "{digest}"


class Mirrors:
    """Fetches chunks from the first address that has them."""

    def __init__(
        self,
        children: Children,
        *,
        server: str,
        mirrors: Iterable[str],
        ca: Path,
        on_fetched: Callable[[bytes], None],
    ) -> None:
        self._children = children
        self._urls = (*map(_address, mirrors), server.rstrip("/") + _CONTROL_PLANE_PATH)
        self._ca = ca
        self._on_fetched = on_fetched

    async def fetch(self, digests: Sequence[str]) -> dict[str, bytes]:
        """Return the chunks that could be had. Raises the last refusal if it was none."""
        found: dict[str, bytes] = {}
        for start in range(0, len(digests), CHUNKS_PER_FETCH_MAX):
            request = FetchChunks(
                urls=self._urls,
                ca=str(self._ca),
                digests=tuple(digests[start : start + CHUNKS_PER_FETCH_MAX]),
                timeout_s=_TIMEOUT_S,
            )
            answer = await self._children.run(request, FetchedChunks)
            found |= answer.chunks
            if not found and answer.fault is not None:
                raise from_code(answer.fault.code, answer.fault.message)
        for data in found.values():
            self._on_fetched(data)
        return found


def _address(mirror: str) -> str:
    """Return where a mirror keeps chunks: it may say so itself with `{digest}`."""
    return mirror if _PLACE in mirror else f"{mirror.rstrip('/')}/{_PLACE}"
