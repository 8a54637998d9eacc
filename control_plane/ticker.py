"""A thread that does its duties again and again. What they are is the composition root's affair."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

from firmware_bundles.errors import ShoalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_LOG: Final = logging.getLogger(__name__)


class Ticker:
    """Calls each of `duties` every `interval_s`; one that fails is logged and tried again."""

    def __init__(self, duties: Sequence[Callable[[], None]], interval_s: float) -> None:
        self._duties = duties
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Begin with a first round at once."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the present duty."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for duty in self._duties:
                if not self._stopping.is_set():
                    _do(duty)
            self._stopping.wait(self._interval_s)


def _do(duty: Callable[[], None]) -> None:
    name = getattr(duty, "__qualname__", repr(duty))
    try:
        duty()
    except ShoalError as error:
        _LOG.warning("duty refused name=%s code=%s reason=%s", name, error.code, error.message)
    except Exception:  # noqa: BLE001 logged; the next round tries again
        _LOG.exception("duty failed name=%s", name)
