"""How many bytes this device moves, and for what: told by who moves them, kept in `usage.db`.

Bytes on the network are topics and payloads, or bodies over HTTPS; the headers of MQTT, TLS and TCP
come on top. Whether what was used is too much is decided in `deployment.conditions`.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Final

from agent import log, sensors
from agent.deployment.conditions import Facts
from agent.store import damage
from agent.store.usage import Purpose, Usage
from firmware_bundles.errors import StateDamaged
from firmware_bundles.wire import topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from agent.clock import Clock

NAME: Final = "usage.db"
_FLUSH_S: Final = 60.0
_LINK_S: Final = 5.0


def open_usage(path: Path) -> Usage:
    """Open the accounts; damaged ones are set aside, and without a disk they are in memory only."""
    for _ in range(2):
        try:
            return Usage.open(path)
        except StateDamaged as error:
            log.event("usage-damaged", reason=error.message)
            try:
                damage.set_aside(path, f"damaged-{secrets.token_hex(4)}")
            except OSError:
                break
    return Usage.open(None)


def purpose(topic: str) -> Purpose:
    """Return what a message on this topic is for."""
    branch = topics.branch(topic)
    if branch in {topics.Branch.CHUNK, topics.Down.CHUNK}:
        return Purpose.MODEL
    if branch is topics.Branch.REPOSITORY:
        return Purpose.METADATA
    if branch in {topics.Up.TELEMETRY, topics.Down.ACKNOWLEDGEMENT}:
        return Purpose.TELEMETRY
    return Purpose.CONTROL


class Meter:
    """Counts, and says what was used today. Local days, in the device's own time zone."""

    def __init__(
        self,
        usage: Usage,
        clock: Clock,
        metered_links: Iterable[str] = (),
        *,
        link: Callable[[], str] = sensors.link,
        power: Callable[[], sensors.Power] = sensors.power,
        temperature_c: Callable[[], float | None] = sensors.temperature_c,
    ) -> None:
        self._usage = usage
        self._clock = clock
        self._metered_links = tuple(metered_links)
        self._read_link = link
        self._power = power
        self._temperature_c = temperature_c
        self._link = sensors.NO_LINK
        self._looked_at: float | None = None

    def received(self, topic: str, payload: bytes) -> None:
        """Count a message that came. Any thread."""
        self._count(purpose(topic), received=len(topic) + len(payload))

    def sent(self, topic: str, payload: bytes) -> None:
        """Count a message that went. Any thread."""
        self._count(purpose(topic), sent=len(topic) + len(payload))

    def fetched(self, body: bytes) -> None:
        """Count a chunk that came over HTTPS."""
        self._count(Purpose.MODEL, received=len(body))

    def wrote(self, count: int) -> None:
        """Count bytes of a model that went to the disk."""
        self._count(Purpose.MODEL, written=count)

    async def run(self) -> None:
        """Keep what was counted on disk, until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write what was counted; what cannot be written stays in memory."""
        try:
            self._usage.flush()
        except StateDamaged as error:
            log.event("usage-not-written", reason=error.message)

    def facts(self) -> Facts:
        """Return what conditions are judged by."""
        local = time.localtime(self._clock.now())
        today = [row for row in self._usage.rows(1) if row.day == _day(local)]
        models = [row for row in today if row.purpose is Purpose.MODEL]
        link = self._current_link()
        power = self._power()
        return Facts(
            weekday=local.tm_wday,
            minute=local.tm_hour * 60 + local.tm_min,
            is_time_known=not self._clock.is_suspect(),
            link=link,
            is_metered=self._is_metered(link),
            received_bytes=sum(row.received for row in models),
            received_metered_bytes=sum(r.received for r in models if self._is_metered(r.link)),
            written_bytes=sum(row.written for row in models),
            battery_percent=power.battery_percent,
            is_on_mains=power.is_on_mains,
            temperature_c=self._temperature_c(),
        )

    def is_metered(self) -> bool:
        """Return whether bytes cost on the link that is in use."""
        return self._is_metered(self._current_link())

    def telemetry_sent_today(self) -> int:
        """Return the bytes of telemetry that went in this local day. Any thread."""
        today = _day(time.localtime(self._clock.now()))
        rows = self._usage.rows(1)
        return sum(r.sent for r in rows if r.day == today and r.purpose is Purpose.TELEMETRY)

    def _is_metered(self, link: str) -> bool:
        return sensors.is_metered(link, self._metered_links)

    def _count(
        self, purpose: Purpose, *, received: int = 0, sent: int = 0, written: int = 0
    ) -> None:
        self._usage.count(
            _day(time.localtime(self._clock.now())),
            self._current_link(),
            purpose,
            received=received,
            sent=sent,
            written=written,
        )

    def _current_link(self) -> str:
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= _LINK_S:
            self._link, self._looked_at = self._read_link(), now
        return self._link


def _day(local: time.struct_time) -> str:
    return time.strftime("%Y-%m-%d", local)
