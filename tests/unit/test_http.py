"""A connection without a socket: heads known from before, and what is sent when."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.inference.heads import Head, Heads
from agent.inference.http import Connection, HttpLimits, Request, Response, Server

_LIMITS = HttpLimits(
    connections_max=8, body_bytes_max=64, bodies_bytes_max=96, request_s_max=9, idle_s_max=9
)


class _Line:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.written = b""
        self.is_closed = False

    def writelines(self, pieces: list[bytes]) -> None:
        self.written += b"".join(pieces)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _talk(pieces: list[bytes], server: Server) -> _Line:
    line: Any = _Line()
    connection = Connection(server)
    connection.connection_made(line)
    for each in pieces:
        connection.data_received(each)
        await asyncio.sleep(0)
    for _ in range(64):  # one turn of the loop for each answer
        await asyncio.sleep(0)
    told: _Line = line
    return told


def _server(seen: list[Request], limits: HttpLimits = _LIMITS) -> Server:
    def answer(request: Request) -> Response:
        seen.append(request)
        return Response(200, b"{}")

    return Server(answer, limits)


def _post(path: str, body: bytes, more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["/a", "/b?c=d"]),
            st.binary(max_size=6) | st.just(b"\r\n\r\n"),
            st.sampled_from(["", "X-Y: z\r\n"]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.lists(st.integers(0, 600), max_size=6),
)
def test_a_request_is_the_same_however_often_its_head_came_before(
    asked: list[tuple[str, bytes, str]], cuts: list[int]
) -> None:
    """Whatever the bodies, and wherever the network cuts or joins the requests."""
    seen: list[Request] = []
    server = _server(seen)
    requests = [_post(*each) for each in asked]
    whole = b"".join(requests)
    places = [0, *sorted(each for each in cuts if each < len(whole)), len(whole)]
    cut = [whole[start:end] for start, end in itertools.pairwise(places) if end > start]
    for pieces in (requests, cut):
        seen.clear()
        line = asyncio.run(_talk(pieces, server))
        assert [each.body for each in seen] == [body for _, body, _ in asked]
        assert [each.path for each in seen] == [path.partition("?")[0] for path, _, _ in asked]
        assert [b"x-y" in each.headers for each in seen] == [bool(more) for _, _, more in asked]
        assert not line.is_closed
    assert server.body_bytes == 0


def test_a_known_head_does_not_open_the_limit_of_all_bodies() -> None:
    """Bytes that wait for their answers count, whichever way the request was read."""
    seen: list[Request] = []

    async def scene() -> _Line:
        server = _server(seen, _LIMITS._replace(bodies_bytes_max=8))
        await _talk([_post("/a", b"12345")], server)
        server.body_bytes += 5  # somebody else's, on its way
        line = await _talk([_post("/a", b"54321")], server)
        assert server.body_bytes == 5
        return line

    assert asyncio.run(scene()).written.startswith(b"HTTP/1.1 503 ")
    assert [each.body for each in seen] == [b"12345"]


def test_a_head_that_ends_the_connection_is_not_remembered() -> None:
    """`Connection: close` is obeyed each time."""
    seen: list[Request] = []
    server = _server(seen)
    for _ in range(3):
        line = asyncio.run(_talk([_post("/a", b"x", "Connection: close\r\n")], server))
        assert line.is_closed
        assert b"connection: close" in line.written


def test_what_is_remembered_is_bounded() -> None:
    """Heads without end take no memory without end, and long ones none at all."""
    heads = Heads()
    for number in range(10_000):
        heads.learn(b"GET /%d HTTP/1.1\r\n\r\n" % number, Head("GET", f"/{number}", {}, 0))
    known = [heads.read(b"GET /%d HTTP/1.1\r\n\r\n" % number) for number in range(10_000)]
    assert 0 < sum(each is not None for each in known) <= 256
    long = b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 5000)
    heads.learn(long, Head("GET", "/x", {}, 0))
    assert heads.read(long) is None


def test_what_was_answered_in_one_turn_is_settled_once_and_then_sent() -> None:
    """Nothing leaves before `settle`, which all answers of the turn have in common."""
    at_settling: list[list[bytes]] = []

    async def scene() -> list[_Line]:
        server = Server(lambda _: Response(200, b"{}"), _LIMITS, lambda: at_settling.append(seen()))
        lines: list[Any] = [_Line() for _ in range(3)]

        def seen() -> list[bytes]:
            return [each.written for each in lines]

        for line in lines:
            connection = Connection(server)
            connection.connection_made(line)
            connection.data_received(_post("/a", b"1") + _post("/a", b"2"))
        for _ in range(4):
            await asyncio.sleep(0)
        return lines

    lines = asyncio.run(scene())
    assert at_settling[0] == [b"", b"", b""]
    assert len(at_settling) == 2, "pipelined requests of a connection take a turn each"
    assert [each.written.count(b"HTTP/1.1 200 OK") for each in lines] == [2, 2, 2]


def test_an_answer_to_a_line_that_was_lost_goes_nowhere() -> None:
    """The client went between request and answer."""
    seen: list[Request] = []

    async def scene() -> _Line:
        server = _server(seen)
        line: Any = _Line()
        connection = Connection(server)
        connection.connection_made(line)
        connection.data_received(_post("/a", b"1"))
        line.close()
        connection.connection_lost(None)
        await asyncio.sleep(0)
        told: _Line = line
        return told

    assert asyncio.run(scene()).written == b""
    assert len(seen) == 1
