"""The audit log: read, filtered, verified. Nothing here adds to it; everything that acts does."""

from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from control_plane import audit as domain
from control_plane.api.auth import Access, Role
from control_plane.store.audit import AuditLog

ROWS_DEFAULT: Final = 100
ROWS_MAX: Final = 1_000
_NOTED_MAX: Final = 16
_NEWEST: Final = domain.NUMBER_MAX

Filter = Annotated[str, Query(max_length=domain.TEXT_CHARS_MAX)]


class AuditEntry(BaseModel):
    """One entry; `details` is JSON text, exactly as its digest covers it."""

    number: int
    at_ms: int
    actor: str
    action: str
    subject: str
    details: str
    previous: str
    digest: str


class AuditEntries(BaseModel):
    """Some entries."""

    entries: list[AuditEntry]


class AuditHead(BaseModel):
    """The last entry: note it elsewhere, and nobody can cut off what came before it."""

    number: int
    digest: str


class AuditFault(BaseModel):
    """What is wrong with the log at an entry."""

    number: int
    kind: str
    sentence: str


class AuditVerification(BaseModel):
    """What came out of checking the whole log; `more` faults are counted alone."""

    is_whole: bool
    entries: int
    head: AuditHead
    faults: list[AuditFault]
    more: int


def router(access: Access, log: AuditLog) -> APIRouter:
    """Return the routes under /audit."""
    viewer = Depends(access.require(Role.VIEWER))
    routes = APIRouter(prefix="/audit", tags=["audit"], dependencies=[viewer])

    @routes.get("")
    def list_entries(
        after: Annotated[int | None, Query(ge=0, le=_NEWEST)] = None,
        before: Annotated[int | None, Query(ge=0, le=_NEWEST)] = None,
        limit: Annotated[int, Query(ge=1, le=ROWS_MAX)] = ROWS_DEFAULT,
        actor: Filter = "",
        action: Filter = "",
        subject: Filter = "",
    ) -> AuditEntries:
        """List entries: with `after` the oldest first from there on, else the newest first.

        `actor` is a whole actor or the name of a token or device; `action` and `subject` are
        beginnings.
        """
        filters = {"actor": actor, "action": action, "subject": subject}
        if after is not None:
            found = log.after(after, limit, **filters)
        else:
            found = log.before(_NEWEST if before is None else before, limit, **filters)
        return AuditEntries(entries=[AuditEntry(**msgspec.to_builtins(each)) for each in found])

    @routes.get("/head")
    def show_head() -> AuditHead:
        """Return number and digest of the last entry."""
        return AuditHead(**log.head()._asdict())

    @routes.get("/verification")
    def verify(
        noted: Annotated[
            list[str],
            Query(max_length=_NOTED_MAX, description="Heads that were noted, NUMBER:DIGEST"),
        ] = [],  # noqa: B006 - FastAPI copies it
    ) -> AuditVerification:
        """Check the whole log, also against heads that were noted elsewhere."""
        found = log.verify([domain.parse_head(each) for each in noted])
        return AuditVerification.model_validate(_shown(found))

    return routes


def _shown(found: domain.Verification) -> dict[str, Any]:
    return {
        **found._asdict(),
        "is_whole": found.is_whole,
        "head": found.head._asdict(),
        "faults": [fault._asdict() for fault in found.faults],
    }
