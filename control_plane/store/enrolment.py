"""Rows of enrolment tokens, and the transaction in which one turns into a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import delete, insert, select, update

from control_plane.audit import Statement
from control_plane.fleet import facts
from control_plane.store import audit, many
from control_plane.store.certificates import CertificateRow, add_certificate, revoke_all
from control_plane.store.schema import device, enrolment_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from control_plane.store.database import Database


# What an enrolment ends. The generation of the last retirement stays: the next one is newer.
_WITH_ACCESS: Final[dict[str, object]] = {
    **dict.fromkeys(("revoked", "retired", "retiring", "retire_until", "erased")),
    "segments_erased": None,
    "evictions_left": 0,
}


class InvitationRow(NamedTuple):
    """An enrolment token as stored: bound to a device id, or to labels alone."""

    digest: str
    device_id: str | None
    labels: Mapping[str, str]
    uses_left: int
    expires: float
    created_by: str


class NewDevice(NamedTuple):
    """What is stored of a device at its enrolment."""

    id: str
    public_key_pem: str
    certificate_serial: str
    telemetry_secret: bytes
    labels: Mapping[str, str]
    inventory: Mapping[str, Any]
    agent_version: str


class Invitations:
    """Enrolment tokens: each allows a number of enrolments before it expires."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, row: InvitationRow, now: float) -> None:
        """Store a new token."""
        told = {"uses": row.uses_left, "expires": row.expires, "labels": row.labels}
        subject = f"device/{row.device_id or '*'}"
        with self._database.transaction() as connection:
            connection.execute(insert(enrolment_token).values(row._asdict()))
            audit.append(
                connection, Statement(now, row.created_by, "device.invited", subject, told)
            )

    def find(self, digest: str, now: float) -> InvitationRow | None:
        """Return the token with this digest, if it may still be used."""
        with self._database.reading() as connection:
            row = connection.execute(select(enrolment_token).where(_usable(digest, now))).first()
        return None if row is None else InvitationRow._make(row)

    def redeem(self, digest: str, new: NewDevice, certificate: CertificateRow, now: float) -> bool:
        """Spend one use of a token and store its device and certificate, all or nothing.

        False if the token may no longer be used. A device that is enrolled again gets a new
        identity and keeps its history and the labels that the token does not set; certificates of
        a key that is no longer its own are revoked.
        """
        with self._database.transaction() as connection:
            spent = connection.execute(
                update(enrolment_token)
                .where(_usable(digest, now))
                .values(uses_left=enrolment_token.c.uses_left - 1)
            )
            if spent.rowcount == 0:
                return False
            query = select(device.c.labels, device.c.public_key_pem).where(device.c.id == new.id)
            known = connection.execute(query).first()
            labels = {**(known.labels if known else {}), **new.labels}
            if known is not None and known.public_key_pem != new.public_key_pem:
                revoke_all(connection, new.id, now)
            values = new._asdict() | {"labels": labels, "enrolled": now}
            values["facts"] = facts.reported(new.inventory)
            many.upsert(connection, device, [values | _WITH_ACCESS])
            add_certificate(connection, certificate)
            told = {"serial": certificate.serial, "is_known": known is not None, "labels": labels}
            subject, actor = f"device/{new.id}", f"device:{new.id}"
            audit.append(connection, Statement(now, actor, "device.enrolled", subject, told))
        return True

    def delete_all(self) -> None:
        """Void every token."""
        with self._database.transaction() as connection:
            connection.execute(delete(enrolment_token))

    def delete_spent(self, now: float) -> None:
        """Forget tokens that nobody can use any more."""
        spent = (enrolment_token.c.uses_left <= 0) | (enrolment_token.c.expires <= now)
        with self._database.transaction() as connection:
            connection.execute(delete(enrolment_token).where(spent))


def _usable(digest: str, now: float) -> Any:  # noqa: ANN401 a condition
    return (
        (enrolment_token.c.digest == digest)
        & (enrolment_token.c.uses_left > 0)
        & (enrolment_token.c.expires > now)
    )
