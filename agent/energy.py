"""What this machine uses, in joules, as far as its platform tells.

RAPL's packages (Documentation/power/powercap) where they can be read, else batteries while they
discharge (Documentation/ABI/testing/sysfs-class-power). It is the whole machine, or its processor:
never a model alone. What nobody told is no zero: only told seconds are counted.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from agent import sensors

if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S: Final = 60.0
GAP_S_MAX: Final = 600.0
"""RAPL's counters wrap, on fast machines after some ten minutes: a longer gap tells nothing."""
_MICRO: Final = 1e-6
_S_PER_HOUR: Final = 3_600.0


class Reading(NamedTuple):
    """What counters stand at in joules, by name, and after how many each begins anew (0: never).

    `is_falling`: they are what is left. `watts` is told by batteries that do not count.
    """

    joules: tuple[tuple[str, float, float], ...] = ()
    is_falling: bool = False
    watts: float | None = None


class Spent(NamedTuple):
    """How much was used, in as many told seconds."""

    joules: float = 0.0
    seconds: float = 0.0


def read(
    powercap: Path = Path("/sys/class/powercap"),
    supplies: Path = Path("/sys/class/power_supply"),
) -> Reading | None:
    """Return what the platform tells now, None if nothing."""
    return _packages(powercap) or _batteries(supplies)


def between(before: Reading | None, now: Reading | None, seconds: float) -> Spent:
    """Return what was used between two readings; nothing where one does not fit the other."""
    if before is None or now is None or not 0 < seconds <= GAP_S_MAX:
        return Spent()
    if [name for name, *_ in before.joules] != [name for name, *_ in now.joules]:
        return Spent()
    if now.watts is not None and before.watts is not None:
        return Spent((before.watts + now.watts) / 2 * seconds, seconds)
    pairs = zip(before.joules, now.joules, strict=True)
    parts = [_used(was, at, wraps) for (_, was, _), (_, at, wraps) in pairs]
    sign = -1.0 if now.is_falling else 1.0
    if not parts or any(sign * part < 0 for part in parts):
        return Spent()  # charged meanwhile, or another counter
    return Spent(sign * sum(parts), seconds)


class EnergyMeter:
    """Looks now and then, and adds up."""

    def __init__(
        self,
        look: Callable[[], Reading | None] = read,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look = look
        self._clock = clock
        self._last: tuple[float, Reading | None] = (0.0, None)
        self.spent: Spent | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Add what was used since the last look; `spent` is None until anything was told."""
        now = self._clock(), self._look()
        found = between(self._last[1], now[1], now[0] - self._last[0])
        self._last = now
        if found.seconds:
            told = self.spent or Spent()
            self.spent = Spent(told.joules + found.joules, told.seconds + found.seconds)


def _used(was: float, at: float, wraps: float) -> float:
    return at - was + (wraps if wraps and at < was else 0.0)


def _packages(root: Path) -> Reading | None:
    """Read the packages, or the whole platform (psys) where that is told: it holds them."""
    found: dict[str, tuple[str, float, float]] = {}
    for zone in sensors.entries(root):
        name, at = sensors.text(zone / "name"), sensors.number(zone / "energy_uj")
        wraps = sensors.number(zone / "max_energy_range_uj")
        if name is not None and at is not None and name.startswith(("package", "psys")):
            found[name] = zone.name, at * _MICRO, (wraps or 0.0) * _MICRO
    kept = [found["psys"]] if "psys" in found else list(found.values())
    return Reading(tuple(kept)) if kept else None


def _batteries(root: Path) -> Reading | None:
    """Read all batteries, if all discharge: only then is what they lose what the device uses."""
    packs = [each for each in sensors.entries(root) if sensors.is_battery(each)]
    if not packs or any(sensors.text(each / "status") != "Discharging" for each in packs):
        return None
    left = [sensors.number(each / "energy_now") for each in packs]
    if None not in left:
        parts = zip(packs, left, strict=True)
        micro_hours = ((pack.name, value or 0.0) for pack, value in parts)
        joules = tuple((name, value * _MICRO * _S_PER_HOUR, 0.0) for name, value in micro_hours)
        return Reading(joules, is_falling=True)
    watts = [sensors.number(each / "power_now") for each in packs]
    if None in watts:
        return None
    return Reading(watts=sum(each or 0.0 for each in watts) * _MICRO)
