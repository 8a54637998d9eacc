"""API tokens: made, listed and withdrawn by administrators. A token's text is told once."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from control_plane.api.auth import Access, Caller, Role
from control_plane.audit import SERVICE
from control_plane.fleet import credentials
from control_plane.store.access import AccessTokens, TokenRow

# Names of persons stand after colons in the audit log.
Person = Annotated[
    str, Field(min_length=1, max_length=64, pattern=r"^[^:\s\x00-\x1f\x7f][^:\x00-\x1f\x7f]*$")
]


class NewToken(BaseModel):
    """What a token is called, what it allows, and whose it is: who has the name, if nobody else."""

    name: Annotated[str, Field(min_length=1, max_length=64, examples=["ci"])]
    role: Role
    person: Person | None = None


class Token(BaseModel):
    """A token as it may be shown."""

    prefix: str
    name: str
    person: str
    role: Role
    created: float


class FreshToken(Token):
    """A token with its text, which is nowhere else."""

    token: str


class TokenList(BaseModel):
    """All tokens."""

    tokens: list[Token]


def create(
    tokens: AccessTokens,
    name: str,
    role: Role,
    now: float,
    by: str = SERVICE,
    *,
    person: str | None = None,
) -> FreshToken:
    """Make and store a token, as the actor `by` asks: of who has its name, if of nobody else."""
    made = credentials.mint(credentials.Kind.API)
    owner = (person or name).strip()
    row = TokenRow(made.prefix, made.digest, name, role.value, now, owner)
    tokens.add(row, by)
    return FreshToken(**_shown(row).model_dump(), token=made.text)


def router(access: Access, tokens: AccessTokens, clock: Callable[[], float]) -> APIRouter:
    """Return the routes under /tokens."""
    admin = access.require(Role.ADMIN)
    routes = APIRouter(prefix="/tokens", tags=["tokens"], dependencies=[Depends(admin)])

    @routes.post("", status_code=201)
    def create_token(new: NewToken, caller: Annotated[Caller, Depends(admin)]) -> FreshToken:
        """Make a token; the answer is the only place where its text is told."""
        return create(tokens, new.name, new.role, clock(), caller.actor, person=new.person)

    @routes.get("")
    def list_tokens() -> TokenList:
        """List all tokens, without their texts."""
        return TokenList(tokens=[_shown(row) for row in tokens.all()])

    @routes.delete("/{prefix}")
    def delete_token(prefix: str, caller: Annotated[Caller, Depends(admin)]) -> dict[str, Any]:
        """Withdraw a token, and the sessions opened with it."""
        tokens.delete(prefix, clock(), caller.actor)
        return {"deleted": prefix}

    return routes


def _shown(row: TokenRow) -> Token:
    return Token(
        prefix=row.prefix,
        name=row.name,
        person=row.owner,
        role=Role(row.role),
        created=row.created,
    )
