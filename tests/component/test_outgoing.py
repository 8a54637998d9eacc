"""Servers of others may be slow, endless or silent: nobody here waits longer than was said."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import pytest

from control_plane import outgoing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n"
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
S_MAX = 0.5


def _one_by_one(data: bytes) -> Iterator[bytes]:
    for byte in itertools.cycle(data):
        time.sleep(0.02)
        yield bytes([byte])


@contextmanager
def _server(pieces: Callable[[], Iterable[bytes]]) -> Iterator[str]:
    """A server that takes one request and answers with these pieces, until the client goes."""

    def serve() -> None:
        line, _ = listener.accept()
        with line, suppress(ConnectionError):
            line.recv(65_536)
            for piece in pieces():
                line.sendall(piece)
            while line.recv(65_536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(10)
        assert not thread.is_alive(), "the connection was left open"


def _post(url: str, bytes_max: int = 1_000) -> outgoing.Answer:
    return outgoing.post(url, b"x", {}, s_max=S_MAX, bytes_max=bytes_max)


@pytest.mark.parametrize(
    "pieces",
    [
        list,
        lambda: _one_by_one(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1_000),
        lambda: itertools.chain([HEAD], _one_by_one(b".")),
    ],
    ids=["silent", "head trickles", "body trickles"],
)
def test_a_slow_server_holds_nobody_up(pieces: Callable[[], Iterable[bytes]]) -> None:
    """Though each byte comes soon enough for the limit of a read, the request ends in its time."""
    begun = time.monotonic()
    with _server(pieces) as url, pytest.raises(TimeoutError):
        _post(url)
    assert time.monotonic() - begun < 10 * S_MAX


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """One byte more than may come tells that it is too long."""
    with _server(lambda: itertools.chain([HEAD], itertools.repeat(bytes(10_000)))) as url:
        assert _post(url) == outgoing.Answer(200, bytes(1_001))


def test_a_status_is_enough_where_no_body_is_wanted() -> None:
    """Of such an answer nothing but the head is waited for."""
    with _server(lambda: [HEAD]) as url:
        assert _post(url, bytes_max=0) == outgoing.Answer(200, b"")
    with _server(lambda: [OK]) as url:
        assert _post(url) == outgoing.Answer(204, b"")
