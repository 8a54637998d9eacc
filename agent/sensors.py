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
    for supply in _entries(root):
        kind = _text(supply / "type")
        if kind == "Battery" and _text(supply / "scope") != "Device":
            level = _number(supply / "capacity")
            levels += [] if level is None else [level]
        elif kind in {"Mains", "USB"}:
            online.append(_text(supply / "online") == "1")
    is_on_mains = any(online) if online else (False if levels else None)
    return Power(min(levels, default=None), is_on_mains)


def temperature_c(root: Path = Path("/sys/class/thermal")) -> float | None:
    """Return the hottest thermal zone in degrees Celsius."""
    zones = (_number(zone / "temp") for zone in _entries(root) if "thermal_zone" in zone.name)
    return max((value / _MILLI for value in zones if value is not None), default=None)


def link(routes: Path = Path("/proc/net/route")) -> str:
    """Return the interface of the default route with the lowest metric, or "none"."""
    found: list[tuple[int, str]] = []
    for line in (_text(routes) or "").splitlines()[1:]:
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


def _entries(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(root.iterdir())


def _text(path: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None


def _number(path: Path) -> float | None:
    with suppress(ValueError):
        return float(_text(path) or "")
    return None
