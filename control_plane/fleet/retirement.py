"""How a device leaves in good order: it erases what it holds, says so, and only then has no access.

The wish is stored first; the device hears of it at once if it is online, else when it says hello.
Its signed report is the only confirmation. A device that does not confirm in time loses its access
all the same: what lies on its disk is then nobody's to erase but who holds it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from control_plane.audit import SERVICE
from firmware_bundles.wire.messages import Erasure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.retirement import RetirementRow, RetirementRows
    from firmware_bundles.wire.messages import Erased

_LOG: Final = logging.getLogger(__name__)
WAIT_S_DEFAULT: Final = 30 * 86_400.0
WAIT_S_MAX: Final = 365 * 86_400.0
# Time for the last word to arrive: with it the device forgets its own key, too.
FAREWELL_S: Final = 10.0
_LOOK_S: Final = 2.0


class Retirements:
    """Retires devices. `revoke` ends a device's access, `push` tells those that are online."""

    def __init__(
        self,
        rows: RetirementRows,
        *,
        revoke: Callable[..., None],
        push: Callable[[Sequence[str]], None],
        clock: Callable[[], float],
    ) -> None:
        self._rows = rows
        self._revoke = revoke
        self._push = push
        self._clock = clock
        self._looked = float("-inf")

    def retire(self, device_id: str, wait_s: float = WAIT_S_DEFAULT, by: str = SERVICE) -> None:
        """Order a device to erase what it holds; its access ends when it has, or after `wait_s`.

        At once where `wait_s` is 0, and where it has no access any more. Raises NotFound.
        """
        now = self._clock()
        is_open = self._rows.begin(device_id, now, now + wait_s, by)
        _LOG.warning("retirement begun device=%s wait_s=%.0f", device_id, wait_s)
        if not is_open or wait_s <= 0:
            self._revoke(device_id, by, is_retired=True)
            return
        self._push([device_id])

    def confirmed(self, device_id: str, erased: Erased) -> None:
        """Take what a signed report says of the erasure; the device is told that it arrived."""
        if self._rows.confirm(device_id, erased, self._clock()):
            _LOG.info("device erased device=%s segments=%d", device_id, erased.segments)
        self._push([device_id])

    def tick(self) -> None:
        """End the access of those that are done, and of those whose time is over."""
        now = self._clock()
        if abs(now - self._looked) < _LOOK_S:
            return
        self._looked = now
        for row in self._rows.ending(now - FAREWELL_S, now):
            if row.erased is None:
                _LOG.warning("device did not confirm its erasure device=%s", row.device_id)
            self._revoke(row.device_id, is_retired=True)


def order(row: RetirementRow | None) -> Erasure | None:
    """Return what a device is told of its retirement. Pure."""
    if row is None:
        return None
    return Erasure(generation=row.generation, is_confirmed=row.erased is not None)
