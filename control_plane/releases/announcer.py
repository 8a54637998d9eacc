"""When the repository is said again: after the broker lost it, and when its freshness was renewed.

And when the broker is asked to save it: soon after something was said, and never otherwise, for a
broker writes all that it retains each time.

What is said and in which order stands in `publisher`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from control_plane.releases.publisher import Publisher
    from control_plane.releases.repository import ModelsRepository

_RENEWAL_CHECK_S: Final = 60.0
_FLUSH_S_MAX: Final = 0.2


class Announcer:
    """Keeps the broker told.

    `flush` waits until the broker has all that was published, `save` asks it to keep that.
    """

    def __init__(
        self,
        publisher: Publisher,
        repository: ModelsRepository,
        *,
        flush: Callable[[float], bool],
        save: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._publisher = publisher
        self._repository = repository
        self._flush = flush
        self._save = save
        self._clock = clock
        self._is_lost = threading.Event()
        self._is_sealed = self._is_told = False
        self._checked = 0.0
        self._saved = 0

    def broker_connected(self) -> None:
        """Note that a broker answers, which may know nothing. Quick; from any thread."""
        self._is_lost.set()

    def tick(self) -> None:
        """Say what has to be said now. Raises SignatureInvalid, after all that can be was said."""
        now = self._clock()
        try:
            if abs(now - self._checked) >= _RENEWAL_CHECK_S:
                self._checked = now
                if self._renew(now) and self._is_told:
                    self._publisher.announce_changes()
        finally:
            if self._is_lost.is_set():
                self._say_all()
        self._save_what_was_said()

    def _renew(self, now: float) -> bool:
        """Sign online roles again where that is due, which it is at each start."""
        if self._is_sealed:
            return self._repository.refresh_if_due(now)
        self._repository.seal()
        self._is_sealed = True
        return True

    def _say_all(self) -> None:
        self._is_lost.clear()
        self._is_told = True
        try:
            self._publisher.announce()
        except BaseException:
            self._is_lost.set()
            raise

    def _save_what_was_said(self) -> None:
        """Let the broker save once it has everything; while it is away, the next round tries."""
        said = self._publisher.announcements
        if said != self._saved and self._flush(_FLUSH_S_MAX):
            self._save()
            self._saved = said
