"""Rows of certificates: which a device was given, and which no longer count."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import delete, func, insert, select, update

from control_plane.audit import SERVICE, Statement
from control_plane.store import audit
from control_plane.store.schema import certificate, device, enrolment_token
from firmware_bundles.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from control_plane.store.database import Database

# A session is ended more than once, in case the device came back before the broker had read the
# list of revoked certificates.
EVICTIONS: Final = 3


class CertificateRow(NamedTuple):
    """A device's certificate chain as it was issued; times are Unix seconds."""

    serial: str
    device_id: str
    pem: str
    issued: float
    expires: float


class Standing(NamedTuple):
    """The key that a device is known by, and since when it is shut out, if it is."""

    public_key_pem: str
    revoked: float | None


class Certificates:
    """Certificates of devices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing(self, device_id: str) -> Standing | None:
        """Return how a device stands, or None if there is no such device."""
        query = select(device.c.public_key_pem, device.c.revoked).where(device.c.id == device_id)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else Standing._make(row)

    def newest(self, device_id: str) -> CertificateRow | None:
        """Return the last certificate of a device that was not revoked."""
        query = (
            select(*(certificate.c[name] for name in CertificateRow._fields))
            .where(certificate.c.device_id == device_id, certificate.c.revoked.is_(None))
            .order_by(certificate.c.issued.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else CertificateRow._make(row)

    def add(self, row: CertificateRow, public_key_pem: str) -> bool:
        """Store a renewed certificate; False if the device lost its right or key meanwhile."""
        with self._database.transaction() as connection:
            entitled = (
                update(device)
                .where(device.c.id == row.device_id, device.c.revoked.is_(None))
                .where(device.c.public_key_pem == public_key_pem)
                .values(certificate_serial=row.serial)
            )
            if connection.execute(entitled).rowcount == 0:
                return False
            add_certificate(connection, row)
        return True

    def revoke(self, device_id: str, now: float, *, is_retired: bool, by: str = SERVICE) -> None:
        """Shut a device out: its certificates, and the invitations made for it. Raises NotFound."""
        values: dict[str, object] = {
            "revoked": func.coalesce(device.c.revoked, now),
            "is_online": False,
            "evictions_left": EVICTIONS,
        }
        if is_retired:
            values["retired"] = func.coalesce(device.c.retired, now)
        with self._database.transaction() as connection:
            found = connection.execute(
                update(device).where(device.c.id == device_id).values(values)
            )
            if found.rowcount == 0:
                raise NotFound(f"there is no device {device_id!r:.80}")
            revoke_all(connection, device_id, now)
            invited = enrolment_token.c.device_id == device_id
            connection.execute(delete(enrolment_token).where(invited))
            action = "device.retired" if is_retired else "device.revoked"
            audit.append(connection, Statement(now, by, action, f"device/{device_id}"))

    def leaving(self) -> list[str]:
        """Return the devices whose live session is still to be ended."""
        query = select(device.c.id).where(device.c.evictions_left > 0).order_by(device.c.id)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def evicted(self, device_id: str) -> None:
        """Note that a device's live session was ended once more."""
        left = device.c.evictions_left
        with self._database.transaction() as connection:
            connection.execute(
                update(device)
                .where(device.c.id == device_id, left > 0)
                .values(evictions_left=left - 1)
            )

    def newest_ends(self, device_ids: Sequence[str]) -> dict[str, float]:
        """Return when the last of each device's certificates ends that was not revoked."""
        query = (
            select(certificate.c.device_id, func.max(certificate.c.expires))
            .where(certificate.c.device_id.in_(device_ids), certificate.c.revoked.is_(None))
            .group_by(certificate.c.device_id)
        )
        with self._database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def revoked(self, now: float) -> list[tuple[str, float]]:
        """Return serial and time of each revocation of a certificate that has not expired."""
        query = (
            select(certificate.c.serial, certificate.c.revoked)
            .where(certificate.c.revoked.is_not(None), certificate.c.expires > now)
            .order_by(certificate.c.serial)
        )
        with self._database.reading() as connection:
            return [(row.serial, row.revoked) for row in connection.execute(query)]


def add_certificate(connection: Connection, row: CertificateRow) -> None:
    """Store a certificate in the caller's transaction; the device's expired ones are forgotten."""
    own = certificate.c.device_id == row.device_id
    connection.execute(delete(certificate).where(own, certificate.c.expires < row.issued))
    connection.execute(insert(certificate).values(row._asdict()))


def revoke_all(connection: Connection, device_id: str, now: float) -> None:
    """Revoke, in the caller's transaction, every certificate that a device has."""
    connection.execute(
        update(certificate)
        .where(certificate.c.device_id == device_id, certificate.c.revoked.is_(None))
        .values(revoked=now)
    )
