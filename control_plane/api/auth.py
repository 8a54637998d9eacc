"""Who asks, and whether they may: bearer tokens for programs, a session cookie for the page.

A session is a signed statement, not a row: it names the token it was opened with, and ends when
that token is withdrawn, when its time is over, or when the signing key is made anew.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from control_plane.fleet import credentials
from firmware_bundles.errors import NotAuthenticated, RoleInsufficient

if TYPE_CHECKING:
    from control_plane.store.access import AccessTokens, TokenRow

SESSION_COOKIE: Final = "shoal_session"
SESSION_S: Final = 12 * 3600
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER: Final = HTTPBearer(auto_error=False, description="An API token: shoal_...")


class Role(StrEnum):
    """What a caller may do. Each role may do all that the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    def covers(self, other: Role) -> bool:
        """Whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


class Caller(NamedTuple):
    """Somebody whose credential was checked: a token of this name, and the person whose it is."""

    name: str
    role: Role
    prefix: str = ""
    person: str = ""

    @property
    def actor(self) -> str:
        """Who it is, in the audit log: the token, and its person if that has another name."""
        token = f"token:{self.name}:{self.prefix}"
        return token if self.person in ("", self.name) else f"{token}:{self.person}"

    @property
    def responsible(self) -> str:
        """Whose word counts: a person has one, however many tokens."""
        return self.person or self.name


class Access:
    """Tells callers from their credentials. `key` signs sessions (32 random bytes)."""

    def __init__(self, tokens: AccessTokens, key: bytes, clock: Callable[[], float]) -> None:
        self._tokens = tokens
        self._key = key
        self._clock = clock

    def require(self, role: Role) -> Callable[..., Caller]:
        """Return a dependency that answers the caller, and refuses those whose role is too low."""

        def caller(
            request: Request,
            bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None,
        ) -> Caller:
            found = self.identify(request, bearer.credentials if bearer else None)
            if not found.role.covers(role):
                raise RoleInsufficient(
                    f"{found.name} is {found.role.value}; this needs the role {role.value}",
                    hint=f"Ask an administrator for a token with the role {role.value}.",
                )
            return found

        return caller

    def identify(self, request: Request, bearer: str | None) -> Caller:
        """Return who sent `request`. Raises NotAuthenticated."""
        if bearer is not None:
            return self.check_token(bearer)
        cookie = request.cookies.get(SESSION_COOKIE)
        if cookie is None:
            raise NotAuthenticated("this needs a token")
        if request.method not in _SAFE_METHODS:
            _check_origin(request)
        return self.check_session(cookie)

    def check_token(self, text: str) -> Caller:
        """Return whose API token `text` is. Raises NotAuthenticated."""
        row = self._tokens.find(credentials.prefix(text))
        if row is None or not credentials.matches(text, row.digest):
            raise NotAuthenticated("this token is not known here")
        return _caller(row)

    def open_session(self, token: str) -> str:
        """Return the value of a session cookie for the holder of an API token.

        Raises NotAuthenticated.
        """
        self.check_token(token)
        claim = f"{credentials.prefix(token)}.{int(self._clock()) + SESSION_S}"
        return f"{claim}.{self._tag(claim)}"

    def check_session(self, cookie: str) -> Caller:
        """Return who opened a session. Raises NotAuthenticated."""
        claim, _, tag = cookie.rpartition(".")
        if not hmac.compare_digest(tag.encode(), self._tag(claim).encode()):
            raise NotAuthenticated("this session is not known here", hint="Log in again.")
        prefix, _, expires = claim.partition(".")
        row = self._tokens.find(prefix) if int(expires) > self._clock() else None
        if row is None:
            raise NotAuthenticated("this session is over", hint="Log in again.")
        return _caller(row)

    def _tag(self, claim: str) -> str:
        return hmac.new(self._key, claim.encode(), hashlib.sha256).hexdigest()


def _caller(row: TokenRow) -> Caller:
    return Caller(row.name, Role(row.role), row.prefix, row.owner)


def _check_origin(request: Request) -> None:
    # A cookie is sent by the browser, not by the person: another site must not make it act.
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise NotAuthenticated("this request came from another site")
