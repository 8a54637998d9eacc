"""What the platform tells about power, heat and the network, read from sysfs and procfs.

Whatever is not there, or cannot be read, is None: a device without a battery has no battery fact.
"""

from __future__ import annotations

from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROUTE_UP: Final = 0x1
_ROUTE_COLUMNS_MIN: Final = 8
_MILLI: Final = 1000.0
NO_LINK: Final = "none"


class Power(NamedTuple):
    """The lowest battery and whether an adapter feeds the device; None: nobody knows."""

    battery_percent: float | None
    is_on_mains: bool | None


def power(root: Path = Path("/sys/class/power_supply")) -> Power:
    """Read all supplies (Documentation/ABI/testing/sysfs-class-power)."""
    levels: list[float] = []
    online: list[bool] = []
    for supply in entries(root):
        kind = text(supply / "type")
        if is_battery(supply):
            level = number(supply / "capacity")
            levels += [] if level is None else [level]
        elif kind in {"Mains", "USB"}:
            online.append(text(supply / "online") == "1")
    is_on_mains = any(online) if online else (False if levels else None)
    return Power(min(levels, default=None), is_on_mains)


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """Return the hottest thermal zone in degrees Celsius."""
    zones = (number(zone / "temp") for zone in entries(root) if "thermal_zone" in zone.name)
    return max((value / _MILLI for value in zones if value is not None), default=None)


def link(routes: Path = Path("/proc/net/route")) -> str:
    """Return the interface of the default route with the lowest metric, or "none"."""
    found: list[tuple[int, str]] = []
    for line in (text(routes) or "").splitlines()[1:]:
        columns = line.split()
        with suppress(ValueError):
            if len(columns) < _ROUTE_COLUMNS_MIN or columns[1] != columns[7]:
                continue
            is_default = int(columns[1], 16) == 0 and int(columns[7], 16) == 0
            if is_default and int(columns[3], 16) & _ROUTE_UP:
                found.append((int(columns[6]), columns[0][:32]))
    return min(found)[1] if found else NO_LINK


def is_metered(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a link's name fits one of the patterns, as in `wwan*`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_battery(supply: Path) -> bool:
    """Return whether a supply is a battery of this machine, not one of a mouse."""
    return text(supply / "type") == "Battery" and text(supply / "scope") != "Device"


def entries(root: Path) -> Iterator[Path]:
    """Yield what is in a folder, sorted; nothing if it cannot be read."""
    with suppress(OSError):
        yield from sorted(root.iterdir())


def text(path: Path) -> str | None:
    """Return what a file says, None if it cannot be read."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None


def number(path: Path) -> float | None:
    """Return the number in a file, None if there is none."""
    with suppress(ValueError):
        return float(text(path) or "")
    return None
