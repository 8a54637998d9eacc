"""The phases of a rollout as its file describes them: how many devices, what they do, and when."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from control_plane.rollouts.gate_specs import PhaseGates
from control_plane.rollouts.spec_parts import Duration, Part, Positive, Seconds, Share
from firmware_bundles.wire.messages import WINDOW_PATTERN

Window = Annotated[str, Meta(pattern=WINDOW_PATTERN)]


class OfferRate(Part, frozen=True, kw_only=True):
    """A wave of `devices` gets an offer every `per_s`, each wave `growth` times the one before.

    1.0 is a constant rate. No wave has more than `devices_max`.
    """

    devices: Positive
    per_s: Duration
    growth: Annotated[float, Meta(ge=1, le=10)] = 1.0
    devices_max: Positive | None = None


class PhaseSpec(Part, frozen=True, kw_only=True):
    """One step: up to which share or count of the cohort to offer, and for how long to watch.

    Both are cumulative, so that phases nest. In mode `shadow` the release answers beside the model
    that serves and never in its place; later phases let these devices serve it, too. Offers are
    made at the `rate`, to devices whose own clock is inside the `window`, once somebody gave the
    `approval` that is asked for. After `timeout_s` a device that has not ended counts as silent.
    """

    share: Share | None = None
    count: Positive | None = None
    mode: Literal["shadow", "serve"] = "serve"
    soak_s: Seconds = 3_600.0
    timeout_s: Duration = 86_400.0
    rate: OfferRate | None = None
    window: Window | None = None
    approval: bool = False
    gates: PhaseGates = PhaseGates()
