"""The unit suite speaks to nobody: an Internet socket that connects or binds is a failure."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("bind", "connect", "connect_ex"):
            patch.setattr(socket.socket, name, _local_only(name))
        yield


def _local_only(name: str) -> Any:  # noqa: ANN401 - it stands in for methods of different types
    original = getattr(socket.socket, name)

    def guarded(self: socket.socket, address: Any) -> Any:  # noqa: ANN401 - as above
        assert self.family == socket.AF_UNIX, f"a unit test called {name}({address!r})"
        return original(self, address)

    return guarded
