"""How a device gets its next certificate: by a request signed with the key that it is known by.

The request itself is the proof, so a device whose certificate ended while it was offline asks in
the same way. The answer certifies no other key and no other name; whoever repeats a request gains
nothing, and is given the certificate that the first one got.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.fleet import certificates
from control_plane.fleet.authority import public_key_pem
from control_plane.store.certificates import CertificateRow
from firmware_bundles.errors import EnrolmentRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.fleet.authority import Authority
    from control_plane.store.certificates import Certificates

_LOG: Final = logging.getLogger(__name__)
# Within this time a request is a repetition: its answer was lost, or somebody recorded it.
REPEATED_S: Final = 3600.0


class Renewals:
    """Renews certificates of devices that are not revoked."""

    def __init__(
        self, store: Certificates, authority: Authority, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._authority = authority
        self._clock = clock

    def renew(self, signing_request: bytes, shown: str | None = None) -> str:
        """Return a certificate chain (PEM) for the device that signed the request.

        `shown` is the name of a certificate that TLS has verified, where the peer showed one: it
        must be the same device's. Raises Malformed, EnrolmentRefused.
        """
        request = certificates.parse_request(signing_request)
        device_id = certificates.common_name(request)
        key = certificates.key_of(request)
        if shown is not None and shown != device_id:
            raise EnrolmentRefused(f"{shown:.80} may not renew the certificate of {device_id:.80}")
        standing = self._store.standing(device_id)
        if standing is None or standing.public_key_pem != public_key_pem(key):
            raise EnrolmentRefused(f"no device {device_id:.80} is known by the key of this request")
        if standing.revoked is not None:
            raise _revoked(device_id)
        now = self._clock()
        newest = self._store.newest(device_id)
        if newest is not None and _is_fresh(newest, now):
            return newest.pem
        issued = self._authority.issue_device(device_id, key)
        row = CertificateRow(issued.serial, device_id, issued.certificate_pem, now, issued.expires)
        if not self._store.add(row, issued.public_key_pem):
            raise _revoked(device_id)
        _LOG.info("certificate renewed device=%s serial=%s", device_id, issued.serial)
        return issued.certificate_pem


def _is_fresh(row: CertificateRow, now: float) -> bool:
    return now - row.issued < min(REPEATED_S, (row.expires - row.issued) / 2)


def _revoked(device_id: str) -> EnrolmentRefused:
    return EnrolmentRefused(
        f"device {device_id} is revoked",
        hint=f"An operator may let it in again: shoal device re-enrol {device_id}.",
    )
