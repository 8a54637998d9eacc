"""A connection without a socket: heads known from before, and what is sent when."""

from __future__ import annotations

import asyncio
import itertools
import re
import tracemalloc
from typing import Any

from hypothesis import example, given
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
        self.connection: Connection | None = None  # that hears of the end

    def write(self, piece: bytes) -> None:
        self.written += piece

    def writelines(self, pieces: list[bytes]) -> None:
        self.written += b"".join(pieces)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True
        if self.connection is not None:
            self.connection.connection_lost(None)
            self.connection = None

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def _talk(pieces: list[bytes], server: Server) -> _Line:
    line: Any = _Line()
    connection = Connection(server)
    connection.connection_made(line)
    line.connection = connection
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
    many = {b"%d" % number: b"" for number in range(100)}
    heads.learn(b"GET / HTTP/1.1\r\n\r\n", Head("GET", "/", many, 0))
    assert heads.read(long) is heads.read(b"GET / HTTP/1.1\r\n\r\n") is None


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


class _Forgetful(Heads):
    """Knows no head."""

    def read(self, data: bytes) -> tuple[Head, bytes] | None:  # noqa: ARG002 - overrides
        return None


_LINES = [
    b"POST /a HTTP/1.1\r\n", b"GET http://here/a HTTP/1.1\r\n", b"HEAD /a?b HTTP/1.1\r\n",
    b"GET /a HTTP/1.0\r\n", b"POST /a HTTP/1.1\n", b"Content-Length: 4\r\n", b"x: y\r\n",
    b"content-LENGTH: 4\r\n", b"Content-Length: 0\r\n", b"Content-Length: 4 \n", b" folded\r\n",
    b"Content-Length: 18446744073709551617\r\n", b"Transfer-Encoding: chunked\r\n", b"x: \0\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"abcd",
    b"\r\n\r\n", b"4\r\nabcd\r\n", b"0\r\n\r\n", b"4;x=y\r\n", b"0\r\nx: y\r\n\r\n", b"\0",
]  # fmt: skip
_PLAIN = [_post("/a", b"abcd"), _post("/a", b"\r\n\r\n"), b"HEAD /a HTTP/1.1\r\n\r\n"]
_hostile = st.lists(st.sampled_from(_LINES), max_size=8).map(b"".join)
_whole = st.sampled_from(_PLAIN)


def _told(server: Server, seen: list[Request], pieces: list[bytes]) -> object:
    """Return all that a connection leads to, but for leave to send a body that came already."""
    seen.clear()
    line = asyncio.run(_talk(pieces, server))
    line.close()
    requests = [(each.method, each.path, each.headers, each.body, each.is_last) for each in seen]
    written = line.written.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
    return requests, written, server.body_bytes


@given(
    st.lists(
        st.lists(_hostile | _whole | st.tuples(_whole, _hostile).map(b"".join), max_size=4),
        max_size=6,
    )
)
@example([[b"\r"], [b"\nPOST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd"]])
def test_what_one_client_sends_changes_nothing_for_another(connections: list[list[bytes]]) -> None:
    """Heads that were known give what the parser would, whoever sent them first, and however."""
    seen: list[Request] = []
    knowing = _server(seen)
    for pieces in connections * 2:
        plain = _server(seen)
        plain.heads = _Forgetful()
        wanted = _told(plain, seen, pieces)
        assert _told(knowing, seen, pieces) == wanted
    assert knowing.body_bytes == 0


class _Talk:
    """A client that numbers its requests, and models that think until they are told to answer."""

    def __init__(self) -> None:
        limits = _LIMITS._replace(bodies_bytes_max=10_000)
        self.server = Server(self._answer, limits)
        self.line = _Line()
        line: Any = self.line
        self.asked: list[int] = []
        self.connection = self.line.connection = Connection(self.server)
        self.connection.connection_made(line)
        self._thinking: list[tuple[asyncio.Future[Response], Response]] = []
        self._has_ended = False

    def _answer(self, request: Request) -> Response | asyncio.Future[Response]:
        response = Response(200, b"<%b>" % request.body)
        if request.path == "/quick":
            return response
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._thinking.append((future, response))
        return future

    def _send(self, path: str) -> None:
        if self.connection._is_deaf or self._has_ended or self.line.is_closed:
            return
        self.asked.append(len(self.asked))
        self.connection.data_received(_post(path, b"%d" % self.asked[-1]))

    async def act(self, action: str) -> None:
        """Let one thing happen."""
        if action == "turn":
            await asyncio.sleep(0)
        elif action in {"ask", "think"}:
            self._send("/quick" if action == "ask" else "/slow")
        elif action == "done":
            if self._thinking:
                future, response = self._thinking.pop(0)
                future.set_result(response)
        elif not self.line.is_closed:
            self._change(action)

    def _change(self, action: str) -> None:
        match action:
            case "pause":
                self.connection.pause_writing()
            case "resume":
                self.connection.resume_writing()
            case "eof":
                self._has_ended = True
                self.connection.eof_received()
            case "end":
                self.server.is_ending = True
                self.connection.end()
            case "lost":
                self.line.close()

    def answered(self) -> list[int]:
        """Return the numbers of what was answered."""
        return [int(each) for each in re.findall(rb"<(\d+)>", self.line.written)]


_ACTIONS = ["ask", "ask", "think", "turn", "turn", "done", "pause", "resume", "eof", "end", "lost"]


@given(st.lists(st.sampled_from(_ACTIONS), max_size=30))
@example(["ask", "ask", "think", "end", "turn", "turn", "done"])
@example(["ask", "turn", "pause", "end"])
def test_what_was_asked_is_answered_once_and_in_order(actions: list[str]) -> None:
    """Whatever comes between: slow models, slow readers, the end of the client or of the server."""

    async def scene() -> _Talk:
        talk = _Talk()
        for action in actions:
            await talk.act(action)
        for _ in range(1 + len(talk.asked)):
            for action in ("resume", "done", "turn", "turn", "turn"):
                await talk.act(action)
        return talk

    talk = asyncio.run(scene())
    answered = talk.answered()
    assert answered == (talk.asked[: len(answered)] if "lost" in actions else talk.asked)
    assert talk.line.is_closed == bool({"lost", "eof", "end"} & set(actions))
    assert talk.server.body_bytes == 0
    assert bool(talk.server.connections) != talk.line.is_closed


def test_an_end_between_answer_and_sending_waits_for_nobody() -> None:
    """A connection that has its answer is closed, though it was not told so with the answer."""

    async def scene() -> _Talk:
        talk = _Talk()
        await talk.act("ask")
        async with asyncio.timeout(1):
            await talk.server.close(60)
        return talk

    talk = asyncio.run(scene())
    assert (talk.answered(), talk.line.is_closed) == ([0], True)


def test_leave_to_send_a_body_comes_behind_the_answers_before() -> None:
    """Also where the model still thought when the client asked for it."""
    leave = b"HTTP/1.1 100 Continue\r\n\r\n"

    async def scene() -> tuple[bytes, bytes, list[int]]:
        talk = _Talk()
        await talk.act("think")
        whole = _post("/quick", b"1", "Expect: 100-continue\r\n")
        talk.connection.data_received(whole[:-1])
        before = talk.line.written
        for action in ("done", "turn", "turn", "turn"):
            await talk.act(action)
        after = talk.line.written
        talk.connection.data_received(whole[-1:])
        await talk.act("turn")
        return before, after, talk.answered()

    before, after, answered = asyncio.run(scene())
    assert before == b""
    assert (after.endswith(b"<0>" + leave), after.count(leave)) == (True, 1)
    assert answered == [0, 1]


_ROOMY = _LIMITS._replace(body_bytes_max=1_000_000, bodies_bytes_max=2_000_000)
_CHUNKED = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_large_body_is_no_part_of_the_next_head() -> None:
    """A piece that ends in the midst of the next head counts for neither limit."""
    seen: list[Request] = []
    both = _post("/a", bytes(70_000)) + _post("/b", b"x")
    line = asyncio.run(_talk([both[:-30], both[-30:]], _server(seen, _ROOMY)))
    assert [len(each.body) for each in seen] == [70_000, 1]
    assert not line.is_closed


def test_a_trailer_is_limited_and_changes_no_header() -> None:
    """What follows a chunked body is read, bounded, and not believed."""
    seen: list[Request] = []
    server = _server(seen, _ROOMY)
    trailer = b"1\r\na\r\n0\r\nContent-Encoding: gzip\r\n\r\n"
    asyncio.run(_talk([_CHUNKED + trailer], server))
    assert [(each.body, list(each.headers)) for each in seen] == [(b"a", [b"transfer-encoding"])]
    pieces = [b"x%d: %b\r\n" % (number, b"y" * 20_000) for number in range(8)]
    for end in (b"1\r\na\r\n0\r\n", b"1\r\na\r\n0\r\nx: "):
        line = asyncio.run(_talk([_CHUNKED + end, *pieces, b"\r\n"], server))
        assert line.written.startswith(b"HTTP/1.1 431 ")
        assert b"the trailer has more than 65536 bytes" in line.written
    assert (len(seen), server.body_bytes) == (1, 0)


def test_small_chunks_take_no_more_memory_than_their_body() -> None:
    """Two bytes at a time, the pieces alone would be twenty times as large."""
    seen: list[Request] = []
    count, pieces = 20_000, [_CHUNKED, *[b"2\r\nab\r\n" * 1000] * 20, b"0\r\n\r\n"]
    tracemalloc.start()
    asyncio.run(_talk(pieces, _server(seen, _ROOMY)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [each.body for each in seen] == [b"ab" * count]
    assert most < 10 * 2 * count


def test_answers_that_could_not_be_settled_end_their_connections() -> None:
    """Nothing is sent, and no client waits for what never comes."""
    told: list[str] = []

    def fail() -> None:
        raise MemoryError

    async def scene() -> _Line:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, facts: told.append(type(facts["exception"]).__name__))
        line: Any = _Line()
        connection = Connection(Server(lambda _: Response(200, b"{}"), _LIMITS, fail))
        connection.connection_made(line)
        connection.data_received(_post("/a", b"1"))
        await asyncio.sleep(0)
        ended: _Line = line
        return ended

    line = asyncio.run(scene())
    assert (line.written, line.is_closed, told) == (b"", True, ["MemoryError"])


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
