"""Whether an update may use this device now, and how many bytes. Pure: facts in, permission out.

The device's own conditions and the rollout's are judged alike, and all of them must hold. What the
platform does not tell (no battery, no thermometer) holds nothing up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from firmware_bundles.windows import parse_window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from firmware_bundles.wire.messages import Conditions


class Facts(NamedTuple):
    """The device now. Bytes are those of models since local midnight; None: nobody knows."""

    weekday: int
    minute: int
    is_time_known: bool
    link: str
    is_metered: bool
    received_bytes: int
    received_metered_bytes: int
    written_bytes: int
    battery_percent: float | None = None
    is_on_mains: bool | None = None
    temperature_c: float | None = None


class Permission(NamedTuple):
    """How many bytes may be fetched now (None: any number), or what the update waits for."""

    bytes_max: int | None
    waits_for: tuple[str, ...] = ()


def judge(
    conditions: Iterable[Conditions],
    facts: Facts,
    wanted_bytes: int,
    *,
    is_urgent: bool = False,
) -> Permission:
    """Return what is allowed now under all conditions, for an update that lacks `wanted_bytes`.

    An urgent one does not wait for the maintenance window.
    """
    reasons: list[str] = []
    allowed: list[int] = []
    for each in conditions:
        reasons += [] if is_urgent else _window(each, facts)
        reasons += _power_and_heat(each, facts)
        for left, what in _budgets(each, facts):
            allowed.append(left)
            if left <= 0 < wanted_bytes:
                reasons.append(f"{what} is used up: {wanted_bytes} bytes are lacking")
    if reasons:
        return Permission(0, tuple(dict.fromkeys(reasons)))
    return Permission(min(allowed, default=None))


def _window(conditions: Conditions, facts: Facts) -> Iterator[str]:
    if conditions.window is not None:
        if not facts.is_time_known:
            yield f"the maintenance window {conditions.window}: the clock is not to be trusted"
        elif not parse_window(conditions.window).covers(facts.weekday, facts.minute):
            yield f"the maintenance window {conditions.window}"


def _power_and_heat(conditions: Conditions, facts: Facts) -> Iterator[str]:
    battery, temperature = facts.battery_percent, facts.temperature_c
    least, most = conditions.battery_percent_min, conditions.temperature_c_max
    if conditions.is_mains_needed and facts.is_on_mains is False:
        yield "mains power"
    # A battery that is being charged may be low.
    if least is not None and battery is not None and battery < least and not facts.is_on_mains:
        yield f"a battery of {least:g} % at least: it has {battery:g} %"
    if most is not None and temperature is not None and temperature > most:
        yield f"a temperature of {most:g} C at most: it is {temperature:g} C"


def _budgets(conditions: Conditions, facts: Facts) -> Iterator[tuple[int, str]]:
    """Yield what is left today of each budget that applies, and its name."""
    total = conditions.model_bytes_per_day_max
    if total is not None:
        yield total - facts.received_bytes, f"today's budget of {total} bytes"
    metered = conditions.metered_bytes_per_day_max
    if metered is not None and facts.is_metered:
        name = f"today's budget of {metered} bytes on metered links ({facts.link})"
        yield metered - facts.received_metered_bytes, name
    written = conditions.written_bytes_per_day_max
    if written is not None:
        yield written - facts.written_bytes, f"today's budget of {written} bytes written to disk"
