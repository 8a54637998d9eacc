"""How a device becomes a member: an operator invites it, the device redeems the invitation.

The certificate's name is ours to give. What a certificate says stands in `authority`.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

from control_plane.fleet import authority as ca
from control_plane.fleet import credentials, labels
from control_plane.fleet.certificates import key_of, parse_request
from control_plane.store.certificates import CertificateRow
from control_plane.store.enrolment import InvitationRow, NewDevice
from firmware_bundles.errors import ConflictError, EnrolmentRefused, InputError, NotFound
from firmware_bundles.identifiers import DeviceId, parse
from firmware_bundles.wire.enrolment import TELEMETRY_SECRET_BYTES, Enrolment, EnrolmentRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from control_plane.store.certificates import Certificates
    from control_plane.store.devices import Devices
    from control_plane.store.enrolment import Invitations

_LOG: Final = logging.getLogger(__name__)
USES_MAX: Final = 10_000
LIFE_S_DEFAULT: Final = 86_400.0
LIFE_S_MAX: Final = 30 * 86_400.0


class Enrolments:
    """Invites devices and enrols them.

    `roots` returns the root metadata of the models repository, the newest last, or raises NotFound
    before there is one; `broker` is the URL that devices connect to.
    """

    def __init__(
        self,
        invitations: Invitations,
        devices: Devices,
        certificates: Certificates,
        authority: ca.Authority,
        *,
        roots: Callable[[], Sequence[bytes]],
        broker: str,
        clock: Callable[[], float],
    ) -> None:
        self._invitations = invitations
        self._devices = devices
        self._certificates = certificates
        self._authority = authority
        self._roots = roots
        self._broker = broker
        self._clock = clock

    def invite(
        self,
        *,
        device: str | None,
        device_labels: Mapping[str, str],
        uses: int,
        life_s: float,
        created_by: str,
    ) -> tuple[str, float]:
        """Return the text of a new enrolment token and when it expires.

        Bound to `device`, it names that device and may enrol it anew; unbound, it never takes a
        name that is in use. Raises InputError, Malformed.
        """
        labels.check(device_labels)
        if device is not None:
            parse(DeviceId, device, "device id")
            if uses != 1:
                raise InputError("a token for one device has one use")
        if not 1 <= uses <= USES_MAX:
            raise InputError(f"{uses} uses; a token has 1 to {USES_MAX}")
        if not 0 < life_s <= LIFE_S_MAX:
            raise InputError(f"a token lives at most {LIFE_S_MAX:g} s")
        token = credentials.mint(credentials.Kind.ENROLMENT)
        now = self._clock()
        self._invitations.delete_spent(now)
        self._invitations.add(
            InvitationRow(
                token.digest, device, dict(device_labels), uses, now + life_s, created_by
            ),
            now,
        )
        return token.text, now + life_s

    def enrol(self, request: EnrolmentRequest) -> Enrolment:
        """Return all that makes the sender a member of the fleet.

        Raises EnrolmentRefused, Malformed, ConflictError.
        """
        now = self._clock()
        digest = credentials.digest(request.token)
        invitation = self._invitations.find(digest, now)
        if invitation is None:
            raise EnrolmentRefused("this enrolment token is unknown, used up or expired")
        public_key = key_of(parse_request(request.csr.encode()))
        *former, root = self._trusted_roots()
        device_id = self._name(invitation, request.device)
        self._check_key(device_id, ca.public_key_pem(public_key))
        issued = self._authority.issue_device(device_id, public_key)
        certificate = CertificateRow(
            issued.serial, device_id, issued.certificate_pem, now, issued.expires
        )
        new = NewDevice(
            id=device_id,
            public_key_pem=issued.public_key_pem,
            certificate_serial=issued.serial,
            telemetry_secret=secrets.token_bytes(TELEMETRY_SECRET_BYTES),
            labels=invitation.labels,
            inventory=request.inventory,
            agent_version=request.agent_version,
        )
        if not self._invitations.redeem(digest, new, certificate, now):
            raise EnrolmentRefused("this enrolment token was used up a moment ago")
        _LOG.info("device enrolled device=%s serial=%s", device_id, issued.serial)
        return Enrolment(
            device=device_id,
            certificate=issued.certificate_pem,
            ca=self._authority.certificate_pem.decode(),
            root=root,
            broker=self._broker,
            telemetry_secret=new.telemetry_secret,
            former_roots=tuple(former),
        )

    def _trusted_roots(self) -> Sequence[bytes]:
        try:
            return self._roots()
        except NotFound as error:
            raise ConflictError(
                "the models repository has no root of trust yet, so no device could check a model",
                hint="Lay it first: shoal keys init.",
            ) from error

    def _check_key(self, device_id: str, public_key_pem: str) -> None:
        """Refuse the key of a device that was revoked: somebody else may have it."""
        standing = self._certificates.standing(device_id)
        if (
            standing is not None
            and standing.revoked is not None
            and standing.public_key_pem == public_key_pem
        ):
            raise EnrolmentRefused(
                f"{device_id} was revoked, and this is the key that it had",
                hint="Let the device make another: shoal-agent enrol --new-key ...",
            )

    def _name(self, invitation: InvitationRow, wish: str | None) -> str:
        if invitation.device_id is not None:
            if wish not in {None, invitation.device_id}:
                raise EnrolmentRefused(
                    f"this enrolment token is for {invitation.device_id}, not for {wish}"
                )
            return invitation.device_id
        name = wish or f"device-{secrets.token_hex(4)}"
        if self._devices.exists(name):
            raise EnrolmentRefused(
                f"there is already a device {name}",
                hint=f"To enrol it anew: shoal device invite --device {name}.",
            )
        return name
