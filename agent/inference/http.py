"""HTTP/1.1 (RFC 9112) on asyncio and httptools: connections, limits, order of answers.

What a request means is the handler's affair; here it is read whole, in time and within its limits,
or refused. Answers go out in the order of their requests, however many were sent at once. Written
for one small server on one loop, because a general one (uvicorn) cost more than the inference.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple, cast

import httptools
import msgspec

from agent.inference.heads import Head, Heads
from agent.inference.refused import Refused, retry_later

JSON: Final = b"content-type: application/json\r\n"

_HEAD_BYTES_MAX: Final = 64 * 1024
_PIPELINED_MAX: Final = 16
_SWEEP_S: Final = 0.5
_ONE_PIECE_BYTES_MAX: Final = 64 * 1024
_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpLimits(NamedTuple):
    """What connections and requests may take. Times are seconds."""

    connections_max: int
    body_bytes_max: int
    bodies_bytes_max: int
    request_s_max: float
    idle_s_max: float


class Request(msgspec.Struct, frozen=True):
    """A whole request. Header names are in small letters."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes
    is_last: bool


class Response(msgspec.Struct, frozen=True):
    """An answer; `headers` are whole lines without Content-Length, which is added."""

    status: int
    body: bytes
    headers: bytes = JSON


Handler = Callable[[Request], Response | Awaitable[Response]]


def refusal(error: Refused) -> Response:
    """Return the answer that says why there is none."""
    body = msgspec.json.encode({"error": error.message})
    return Response(error.status, body, JSON + error.headers)


class Server:
    """Serves on sockets that are bound already; the handler must not raise.

    What was answered in one turn of the loop is sent together, after `settle`: there what must not
    be lost can be written for all of them at once.
    """

    def __init__(
        self, handler: Handler, limits: HttpLimits, settle: Callable[[], None] = lambda: None
    ) -> None:
        self.handler = handler
        self.limits = limits
        self._settle = settle
        self._unsent: list[Connection] = []
        self.connections: set[Connection] = set()
        self.heads = Heads()
        self.body_bytes = 0  # of all requests that are read or answered now
        self.is_ending = False
        self._is_empty = asyncio.Event()  # set by the last connection that goes while it ends
        self._listening: list[asyncio.Server] = []
        self._sweep: asyncio.TimerHandle | None = None

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            made = await loop.create_server(lambda: Connection(self), sock=each, backlog=1024)
            self._listening.append(made)
        self._sweep_soon()

    async def close(self, drain_s_max: float) -> None:
        """Take no more, finish what was asked, and close everything."""
        self.is_ending = True
        for each in self._listening:
            each.close()
        for connection in list(self.connections):
            connection.end()
        if self.connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s_max):
                    await self._is_empty.wait()
        for connection in list(self.connections):
            connection.abort()
        if self._sweep is not None:
            self._sweep.cancel()

    def send_soon(self, connection: Connection) -> None:
        """Let a connection send its answer when this turn of the loop is over."""
        if not self._unsent:
            connection.loop.call_soon(self._send)
        self._unsent.append(connection)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        try:
            self._settle()
        except BaseException:  # what is not settled never leaves, and nobody waits for it
            for each in unsent:
                each.abort()
            raise
        for each in unsent:
            each.send()

    def forget(self, connection: Connection) -> None:
        """Count a connection out."""
        self.connections.discard(connection)
        if self.is_ending and not self.connections:
            self._is_empty.set()

    def _sweep_soon(self) -> None:
        """Look for what takes too long now and then: a timer for each request would cost more."""
        loop = asyncio.get_running_loop()
        for connection in list(self.connections):
            connection.check(loop.time())
        self._sweep = loop.call_later(_SWEEP_S, self._sweep_soon)


class Connection(asyncio.Protocol):
    """One connection: reads requests, hands each on, writes the answers in order."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self._waiting: deque[Request | Response] = deque()
        self._answering: asyncio.Future[Response] | None = None
        self._answer_bytes: list[bytes] = []  # of the answer that is to be sent next
        self._is_deaf = False  # what still comes is not read
        self._is_closing_after = False
        self._is_last_answer = False
        self._is_paused = False
        self._active_at = self.loop.time()
        self._began_at = 0.0  # when the present request began, 0 between requests
        self._head_bytes = 0  # of a head or a trailer, until now
        self._head = Head("", "", {}, 0)  # of the latest request that came whole
        self._completed = 0
        self._new_request()

    def _new_request(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: bytes | bytearray = b""
        self._body_bytes = 0
        self._is_head_whole = False
        self._is_leave_due = False

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in, or turn it away."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another parent
        most = self._server.limits.connections_max
        is_full = len(self._server.connections) >= most
        self._server.connections.add(self)
        if is_full:
            self._refuse(retry_later(503, f"{most} connections are open; no more are taken"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Forget the connection; what is being computed for it goes on, and is recorded."""
        self._server.forget(self)
        self._is_deaf = True
        for each in self._waiting:
            self._release(each)
        self._waiting.clear()
        self._server.body_bytes -= self._body_bytes
        self._body_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._is_deaf:
            return
        is_begin = not self._began_at
        if is_begin and (found := self._server.heads.read(data)) is not None:
            self._take_known(*found)
            return
        before = completed, _, _ = self._progress()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # RFC 9110, section 7.8: an upgrade may be ignored; it was answered as if not asked.
            self._end_after_answers()
        except httptools.HttpParserError as error:
            self._refuse(Refused(400, f"this is not HTTP/1.1: {error}"))
        self._count_head(len(data) if self._began_at and self._progress() == before else 0)
        if is_begin and self._completed == completed + 1 and not (self._began_at or self._is_deaf):
            self._server.heads.learn(data, self._head)

    def _take_known(self, head: Head, body: bytes) -> None:
        self._body_bytes = len(body)
        if self._has_room(len(body)):
            self._body_bytes = 0
            self._take(Request(head.method, head.path, head.headers, body, is_last=False))

    def _progress(self) -> tuple[int, bool, int]:
        return self._completed, self._is_head_whole, self._body_bytes

    def _count_head(self, count: int) -> None:
        """Count bytes that ended no head and were of no body; 0 begins anew."""
        self._head_bytes = self._head_bytes + count if count else 0
        if self._head_bytes > _HEAD_BYTES_MAX:
            part = "trailer" if self._is_head_whole else "head"
            self._refuse(Refused(431, f"the {part} has more than {_HEAD_BYTES_MAX} bytes"))

    def eof_received(self) -> bool:
        """Keep the connection for answers that are on their way; close it if there are none."""
        self._end_after_answers()
        return True

    def pause_writing(self) -> None:
        """Answer no more until the client reads."""
        self._is_paused = True
        self._active_at = self.loop.time()

    def resume_writing(self) -> None:
        """Go on with what waits."""
        self._is_paused = False
        self._go_on()

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        self._began_at = self.loop.time()
        self._new_request()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; of a trailer nothing is asked for (RFC 9110, section 6.5.1)."""
        if not self._is_head_whole:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Refuse what will be too large before it comes; ask for it where the client waits."""
        self._is_head_whole = True
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > self._server.limits.body_bytes_max:
            self._refuse(self._too_large())
        elif b"expect" in self._headers:
            self._is_leave_due = True
            self._give_leave()

    def _give_leave(self) -> None:
        """Let a client send the body that it holds back, after all answers before."""
        if self._is_leave_due and not (self._is_deaf or self._is_busy):
            self._is_leave_due = False
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._is_deaf:
            return
        if not self._body:
            self._body = body
        elif isinstance(self._body, bytearray):
            self._body += body
        else:  # in one array: of pieces of a byte a list would be twenty times as large
            self._body = bytearray(self._body) + body
        self._body_bytes += len(body)
        if self._body_bytes > self._server.limits.body_bytes_max:
            self._server.body_bytes += len(body)
            self._refuse(self._too_large())
        else:
            self._has_room(len(body))

    def _has_room(self, count: int) -> bool:
        """Count bytes of a body in; refuse the request where all together are too many."""
        self._server.body_bytes += count
        most = self._server.limits.bodies_bytes_max
        if self._server.body_bytes <= most:
            return True
        self._refuse(retry_later(503, f"requests of more than {most} bytes together are here"))
        return False

    def on_message_complete(self) -> None:
        """Hand the request on, or let it wait for its turn."""
        if self._is_deaf:
            return
        self._began_at = 0.0
        parser = self._parser
        whole = bytes(self._body)
        is_last = not parser.should_keep_alive() or parser.get_http_version() != "1.1"
        method = parser.get_method().decode("latin-1")
        path = self._url.partition(b"?")[0].decode("latin-1")
        self._head = Head(method, path, self._headers, len(whole))
        self._completed += 1
        self._body, self._body_bytes, self._is_head_whole = b"", 0, False
        self._is_leave_due = False
        self._is_deaf = is_last
        self._take(Request(method, path, self._headers, whole, is_last))

    # Answers, in order.

    @property
    def _is_busy(self) -> bool:
        return bool(
            self._answering is not None or self._answer_bytes or self._is_paused or self._waiting
        )

    def _take(self, request: Request | Response) -> None:
        if self._is_busy:
            self._waiting.append(request)
            if len(self._waiting) >= _PIPELINED_MAX:
                self._transport.pause_reading()
            return
        self._answer(request)

    def _answer(self, request: Request | Response) -> None:
        if isinstance(request, Response):
            self._write(request, is_last=True)
            return
        outcome = self._server.handler(request)
        if isinstance(outcome, Response):
            self._server.body_bytes -= len(request.body)
            self._write(outcome, is_last=request.is_last, is_head=request.method == "HEAD")
            return
        self._answering = asyncio.ensure_future(outcome)
        self._answering.add_done_callback(lambda done: self._answered(request, done))

    def _answered(self, request: Request, done: asyncio.Future[Response]) -> None:
        self._answering = None
        self._server.body_bytes -= len(request.body)
        if not self._transport.is_closing() and not done.cancelled():
            self._write(done.result(), is_last=request.is_last, is_head=request.method == "HEAD")

    def _go_on(self) -> None:
        if self._answering is not None or self._answer_bytes or self._is_paused:
            return
        if self._waiting:
            self._answer(self._waiting.popleft())
        if not self._waiting:
            self._transport.resume_reading()
            self._close_if_done()
            self._give_leave()

    def _write(self, response: Response, *, is_last: bool, is_head: bool = False) -> None:
        body = response.body
        is_last = is_last or (self._server.is_ending and not self._waiting)
        end = b"connection: close\r\n\r\n" if is_last else b"\r\n"
        line = _LINES[response.status]
        head = b"%bcontent-length: %d\r\n%b%b" % (line, len(body), response.headers, end)
        if is_head:
            self._answer_bytes = [head]
        elif len(body) <= _ONE_PIECE_BYTES_MAX:
            self._answer_bytes = [head + body]
        else:
            self._answer_bytes = [head, body]
        if is_last:
            self._is_last_answer = self._is_deaf = True
        self._server.send_soon(self)

    def send(self) -> None:
        """Send the answer that is ready, and go on."""
        pieces, self._answer_bytes = self._answer_bytes, []
        if self._transport.is_closing():
            return
        self._transport.writelines(pieces)
        self._active_at = self.loop.time()
        if self._is_last_answer:
            self._transport.close()
        elif self._has_more:
            self._go_on()

    @property
    def _has_more(self) -> bool:
        """Whether there is something to do behind an answer: mostly there is not."""
        is_over = self._is_closing_after or self._server.is_ending
        return bool(self._waiting or self._is_leave_due or is_over)

    def _release(self, request: Request | Response) -> None:
        if isinstance(request, Request):
            self._server.body_bytes -= len(request.body)

    # The end.

    def _refuse(self, error: Refused) -> None:
        """Answer what cannot be read on, after all that was asked before, and close."""
        if self._is_deaf:
            return
        self._is_deaf = True
        self._began_at = 0.0
        self._server.body_bytes -= self._body_bytes
        self._body, self._body_bytes = b"", 0
        self._take(refusal(error))

    def _too_large(self) -> Refused:
        most = self._server.limits.body_bytes_max
        return Refused(413, f"the body is too large; at most {most} bytes are taken")

    def _end_after_answers(self) -> None:
        self._is_deaf = True
        self._is_closing_after = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        is_over = self._is_closing_after or (self._server.is_ending and not self._began_at)
        if is_over and not self._is_busy:
            self._transport.close()

    def check(self, now: float) -> None:
        """Close what has taken too long: a request on its way, or a client that is silent."""
        limits = self._server.limits
        if self._is_paused:
            if now - self._active_at > limits.idle_s_max:
                self.abort()
        elif self._began_at and now - self._began_at > limits.request_s_max:
            self._refuse(
                Refused(408, f"the request did not come within {limits.request_s_max:g} seconds")
            )
        elif not self._is_busy and not self._began_at and now - self._active_at > limits.idle_s_max:
            self._transport.close()

    def end(self) -> None:
        """Close now if nothing was asked, else after the answers; the server is ending."""
        self._close_if_done()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
