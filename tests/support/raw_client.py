"""A client that costs little beside what it measures: requests made before, one keep-alive line."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from support import workers

_ANSWER_S_MAX = 30.0


def request(family: str, image: NDArray[np.float32]) -> bytes:
    """Return all bytes of an infer request."""
    body = json.dumps(workers.infer(image)).encode()
    head = f"POST /v2/models/{family}/infer HTTP/1.1\r\nhost: device\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class RawClient:
    """One connection to the endpoint's unix socket."""

    def __init__(self, path: Path) -> None:
        self._line = socket.socket(socket.AF_UNIX)
        self._line.settimeout(_ANSWER_S_MAX)
        self._line.connect(str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._line.close()

    def ask(self, wanted: bytes) -> bytes:
        """Return the body of the answer. Raises AssertionError unless it is 200, OSError."""
        self._line.sendall(wanted)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), data[:400]
        _, _, length = head.lower().partition(b"content-length: ")
        while len(body) < int(length.split(b"\r\n")[0]):
            body += self._more()
        return body

    def _more(self) -> bytes:
        data = self._line.recv(65536)
        if not data:
            raise ConnectionResetError("the worker closed the connection")
        return data
