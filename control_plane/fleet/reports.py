"""Reports: signed statements of devices, checked and stored. The only signal of success."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import AuthenticationFailed, NotFound
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.devices import Devices

_LOG: Final = logging.getLogger(__name__)


class Reports:
    """Accepts each report once, from the device that signed it.

    `erased` hears of a retired device that has nothing left.
    """

    def __init__(
        self,
        devices: Devices,
        clock: Callable[[], float],
        erased: Callable[[str, messages.Erased], None] = lambda *_: None,
    ) -> None:
        self._erased = erased
        self._devices = devices
        self._clock = clock

    def handle(self, device_id: str, payload: bytes) -> bool:
        """Store a report as it came from the broker; False if it was stored before.

        Raises NotFound, SignatureInvalid, AuthenticationFailed, WireError.
        """
        report = self._open(device_id, payload)
        is_new = self._devices.accept_report(report, self._clock())
        if is_new and isinstance(report.erased, messages.Erased):
            self._erased(device_id, report.erased)
        if not is_new:
            _LOG.info(
                "report came before device=%s incarnation=%s counter=%d",
                device_id,
                report.incarnation,
                report.counter,
            )
        return is_new

    def _open(self, device_id: str, payload: bytes) -> messages.Report:
        pem = self._devices.public_key_pem(device_id)
        if pem is None:
            raise NotFound(f"a report came for {device_id}, which is not enrolled")
        key = envelopes.device_key(device_id, pem)
        report = envelopes.open_envelope(messages.Report, payload, [key])
        if report.device != device_id:
            raise AuthenticationFailed(
                f"a report on the topic of {device_id} speaks for {report.device}"
            )
        return report
