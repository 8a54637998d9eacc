"""The command's way to the API: requests out, JSON in, problems raised as errors."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import httpx

from control_plane.cli.options import CURRENT, Options
from firmware_bundles import errors
from firmware_bundles.errors import ConfigInvalid, NotAuthenticated, ServerUnreachable, ShoalError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

# What the server says; each command knows the shape of what it asked for.
Json: TypeAlias = Any

API_PREFIX: Final = "/api/v1"
CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 60.0


class Api:
    """A connection to the server of the present command; use it as a context manager.

    Paths are relative to the API: `api.get("devices", cohort="berlin")`. Raises ServerUnreachable,
    and whatever ShoalError the server's problem document names.
    """

    def __init__(self, options: Options, *, transport: httpx.BaseTransport | None = None) -> None:
        self._server = options.server
        headers = {"Authorization": f"Bearer {_token(options.token)}"} if options.token else {}
        if not options.server.startswith(("http://", "https://")):
            raise ConfigInvalid(
                f"server {options.server!r:.120} is no address", hint="Say http://HOST:PORT."
            )
        try:
            self._client = httpx.Client(
                base_url=options.server.rstrip("/") + API_PREFIX,
                headers=headers,
                timeout=httpx.Timeout(ANSWER_S_MAX, connect=CONNECT_S_MAX),
                verify=_tls(options),
                transport=transport,
            )
        except (httpx.InvalidURL, OSError, UnicodeError) as error:
            raise ConfigInvalid(f"cannot use server {options.server!r:.120}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def get(self, path: str, **query: str | int | None) -> Json:
        """Return the JSON that `path` holds; a parameter that is None is left out."""
        return _json(self._send("GET", path, query=query))

    def get_bytes(self, path: str) -> bytes:
        """Return the body of `path` as it is, for what is signed."""
        return self._send("GET", path).content

    def post(
        self,
        path: str,
        *,
        json: Json = None,
        content: bytes | None = None,
        **query: str | int | None,
    ) -> Json:
        """Create or do something; returns the JSON of the answer."""
        return _json(self._send("POST", path, query=query, json=json, content=content))

    def put(self, path: str, *, json: Json = None, content: bytes | None = None) -> Json:
        """Put something in its place; returns the JSON of the answer."""
        return _json(self._send("PUT", path, json=json, content=content))

    def patch(self, path: str, *, json: Json = None) -> Json:
        """Change something; returns the JSON of the answer."""
        return _json(self._send("PATCH", path, json=json))

    def delete(self, path: str) -> Json:
        """Remove something; returns the JSON of the answer."""
        return _json(self._send("DELETE", path))

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        json: Json = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        params = {key: value for key, value in (query or {}).items() if value is not None} or None
        try:
            response = self._client.request(
                method, path.lstrip("/"), params=params, json=json, content=content
            )
        except httpx.HTTPError as error:
            raise ServerUnreachable(
                f"no answer from {self._server}: {error}",
                hint="Is 'shoal serve' running there? Name another server with --server.",
            ) from error
        if response.is_error:
            raise _problem(response)
        return response


def connect() -> Api:
    """Return a connection as the user's options say."""
    return Api(CURRENT.get())


def _token(text: str) -> str:
    # What is no header would be quoted in the client's error, and a token is a secret.
    if not (text.isascii() and text.isprintable()):
        raise NotAuthenticated("the token has characters that no token has")
    return text


def _tls(options: Options) -> ssl.SSLContext | bool:
    return True if options.ca is None else ssl.create_default_context(cafile=options.ca)


def _json(response: httpx.Response) -> Json:
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise ServerUnreachable(
            f"{response.url} answered with something that is no JSON"
        ) from error


def _problem(response: httpx.Response) -> ShoalError:
    """Return the error that a problem document (RFC 9457) names."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or "code" not in document:
        return ServerUnreachable(
            f"{response.request.method} {response.url.path} was answered with "
            f"{response.status_code} {response.reason_phrase}",
            hint="Is this a shoal server, and of about this release?",
        )
    kind = error_class(str(document["code"]))
    message = str(document.get("message") or document.get("detail") or response.reason_phrase)
    return kind(message, hint=str(document.get("hint") or ""))


def error_class(code: str) -> type[ShoalError]:
    """Return the class of a stable code; an unknown one falls back to its branch of the tree."""
    known = _classes()
    branch = code.partition(".")[0]
    return known.get(code) or next(
        (kind for name, kind in known.items() if name.partition(".")[0] == branch),
        errors.ShoalError,
    )


@cache
def _classes() -> dict[str, type[ShoalError]]:
    """Return all error classes by code, parents before their children."""
    found: dict[str, type[ShoalError]] = {}
    waiting = [errors.ShoalError]
    while waiting:
        kind = waiting.pop(0)
        found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found
