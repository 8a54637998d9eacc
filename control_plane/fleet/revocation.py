"""How a device loses its access: in the database first, then at the broker, its live session last.

A device is shut out the moment that its row says so: what it sends counts no more, and it is given
no certificate. The broker learns it from a list of revoked certificates (CRL). A list past its end
would lock every device out, so it is made anew daily and ends a month later; one that was not
renewed for half of that is an alarm.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.audit import SERVICE
from control_plane.fleet.certificates import LIST_LIFE_S
from firmware_bundles.errors import TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.fleet.authority import Authority
    from control_plane.store.certificates import Certificates

_LOG: Final = logging.getLogger(__name__)
LIST_AGE_S_MAX: Final = 86_400.0
_ALARM_AGE_S: Final = LIST_LIFE_S / 2
_ALARM_EVERY_S: Final = 3600.0
_LOOK_S: Final = 5.0


class ListAge(NamedTuple):
    """The list that the broker was given last: when, and when it ends; `is_late` is the alarm."""

    given: float
    ends: float
    is_late: bool


def age(given: float, now: float) -> ListAge:
    """Return how a list that was given to the broker at `given` stands now. Pure."""
    return ListAge(given, given + LIST_LIFE_S, now - given > _ALARM_AGE_S)


class Revocations:
    """Shuts devices out, and keeps the list of their certificates young.

    `install` gives a list (PEM) to the broker, `evict` ends a device's session there.
    """

    def __init__(
        self,
        store: Certificates,
        authority: Authority,
        *,
        install: Callable[[bytes], None],
        evict: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._authority = authority
        self._install = install
        self._evict = evict
        self._clock = clock
        self._listed: list[tuple[str, float]] = []
        self._given = float("-inf")
        self._began = clock()  # a broker of our own is given one at its start
        self._alarmed = float("-inf")
        self._looked = float("-inf")

    def current(self) -> bytes:
        """Return a list of now, for a broker that starts."""
        return self._authority.revocation_list(self._store.revoked(self._clock()))

    def age(self) -> ListAge:
        """Return how old the broker's list is."""
        return age(max(self._given, self._began), self._clock())

    def revoke(self, device_id: str, by: str = SERVICE, *, is_retired: bool = False) -> None:
        """Shut a device out for good; its live session ends within seconds. Raises NotFound."""
        self._store.revoke(device_id, self._clock(), is_retired=is_retired, by=by)
        _LOG.warning("device revoked device=%s retired=%s", device_id, str(is_retired).lower())
        self._looked = float("-inf")

    def tick(self) -> None:
        """Tell the broker what changed; call it again and again, from one thread.

        Whose session is still to be ended stands in the database: a restart forgets nobody.
        """
        now = self._clock()
        if abs(now - self._looked) < _LOOK_S:
            return
        self._looked = now
        self._sound_alarm(now)
        listed = self._store.revoked(now)
        if listed != self._listed or now - self._given > LIST_AGE_S_MAX:
            self._install(self._authority.revocation_list(listed))
            self._listed, self._given = listed, now
        for device_id in self._store.leaving():
            try:
                self._evict(device_id)
            except TransferError as error:
                _LOG.warning("eviction failed device=%s reason=%s", device_id, error.message)
            else:
                self._store.evicted(device_id)

    def _sound_alarm(self, now: float) -> None:
        found = self.age()
        if found.is_late and now - self._alarmed > _ALARM_EVERY_S:
            self._alarmed = now
            _LOG.error(
                "the broker's list of revoked certificates is not renewed; when it ends, every "
                "device is shut out in_s=%.0f",
                found.ends - now,
            )
