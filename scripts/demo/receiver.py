"""Somebody who is told of alerts: takes events on this machine, and checks who sent them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_BODY_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class Event:
    """An event as it came: its headers in lower case, its body, and what that says."""

    headers: dict[str, str]
    body: bytes
    said: dict[str, Any]

    def is_from(self, secret: str) -> bool:
        """Whether the holder of the secret sent it (Standard Webhooks)."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode()
        tag = hmac.new(key, signed + self.body, hashlib.sha256).digest()
        expected = f"v1,{base64.b64encode(tag).decode()}"
        return hmac.compare_digest(expected, self.headers["webhook-signature"])


class Receiver:
    """A small web server on loopback; `heard` is called with each event, in the server's thread."""

    def __init__(self, heard: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length", 0)), _BODY_BYTES_MAX)
                body = self.rfile.read(length)
                self.send_response(HTTPStatus.NO_CONTENT)
                self.end_headers()
                headers = {name.lower(): value for name, value in self.headers.items()}
                event = Event(headers, body, json.loads(body))
                receiver.events.append(event)
                heard(event)

            def log_message(self, format: str, *words: object) -> None:  # noqa: A002 - its name
                """Say nothing: what came is told by `heard`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/events"
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver")
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
