"""How a simulated device behaves, as data; and how behaviours are dealt out to a fleet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """A span without network, counted from the device's start."""

    after_s: Seconds
    for_s: Seconds


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What one device does; the defaults are those of a device with which all is well.

    `fails_install` and `fails_probation` are the shares of deployments that end so. `install_s` is
    the time from the last chunk to the switch, `bytes_per_s` the speed of its line (0: no limit).
    `drift_sd` is added to every feature, in its standard deviations, from window
    `drift_after_windows` on; `wrong_share` of its answers are wrong. A silent device says nothing
    but hello. A restless line delivers some of what passes twice, late, or in another order.
    """

    fails_install: Share = 0.0
    fails_probation: Share = 0.0
    install_s: Seconds = 0.2
    bytes_per_s: Seconds = 0.0
    outages: tuple[Outage, ...] = ()
    drift_sd: float = 0.0
    drift_after_windows: int = 0
    wrong_share: Share = 0.0
    is_silent: bool = False
    is_restless: bool = False


class Dealt(msgspec.Struct, frozen=True, kw_only=True):
    """A behaviour, and for which share of the fleet."""

    share: Share
    behaviour: Behaviour


def deal(count: int, mix: Sequence[Dealt], seed: int) -> list[Behaviour]:
    """Return the behaviour of each device: the mix's shares, rounded, the rest well-behaved."""
    found = [each.behaviour for each in mix for _ in range(round(count * each.share))]
    found = [*found[:count], *(Behaviour() for _ in range(count - len(found)))]
    random.Random(seed).shuffle(found)
    return found
