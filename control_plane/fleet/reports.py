"""Reports: signed statements of devices, checked and stored. The only signal of success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firmware_bundles.errors import AuthenticationFailed, NotFound, ReportReplayed
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.store.devices import Devices


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

    def handle(self, device_id: str, payload: bytes) -> None:
        """Store a report as it came from the broker.

        Raises NotFound, SignatureInvalid, AuthenticationFailed, ReportReplayed, WireError.
        """
        report = self._open(device_id, payload)
        if not self._devices.accept_report(report, self._clock()):
            raise ReportReplayed(
                f"report {report.counter} of incarnation {report.incarnation} came before, "
                "or after a later one"
            )
        if isinstance(report.erased, messages.Erased):
            self._erased(device_id, report.erased)

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
