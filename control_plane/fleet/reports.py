"""Reports: signed statements of devices, checked and stored. The only signal of success."""

from __future__ import annotations

from typing import TYPE_CHECKING

from firmware_bundles.errors import AuthenticationFailed, NotFound, ReportReplayed, ShoalError
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        (error,) = self.handle_all([(device_id, payload)])
        if error is not None:
            raise error

    def handle_all(self, batch: Sequence[tuple[str, bytes]]) -> list[ShoalError | None]:
        """Store reports in order, in one transaction; say of each why it was refused, if it was."""
        keys = self._devices.public_keys_pem({device_id for device_id, _ in batch})
        opened = [_opened(each, payload, keys.get(each)) for each, payload in batch]
        reports = [each for each in opened if isinstance(each, messages.Report)]
        is_new = iter(self._devices.accept_reports(reports, self._clock()) if reports else ())
        return [
            each if isinstance(each, ShoalError) else self._accepted(each, is_new=next(is_new))
            for each in opened
        ]

    def _accepted(self, report: messages.Report, *, is_new: bool) -> ShoalError | None:
        if not is_new:
            return ReportReplayed(
                f"report {report.counter} of incarnation {report.incarnation} came before, "
                "or after a later one"
            )
        if isinstance(report.erased, messages.Erased):
            try:
                self._erased(report.device, report.erased)
            except ShoalError as error:  # what came with it is stored all the same
                return error
        return None


def _opened(device_id: str, payload: bytes, pem: bytes | None) -> messages.Report | ShoalError:
    """Return a report that its device signed, or why it is none."""
    if pem is None:
        return NotFound(f"a report came for {device_id}, which is not enrolled")
    try:
        key = envelopes.device_key(device_id, pem)
        report = envelopes.open_envelope(messages.Report, payload, [key])
    except ShoalError as error:
        return error
    if report.device != device_id:
        return AuthenticationFailed(
            f"a report on the topic of {device_id} speaks for {report.device}"
        )
    return report
