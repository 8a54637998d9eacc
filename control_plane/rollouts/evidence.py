"""What the fleet's telemetry says of a rollout, summed up as the gates compare it. Pure values.

The store gathers it; what was not asked for by a gate is empty.
"""

from __future__ import annotations

from typing import NamedTuple

from control_plane.rollouts.statistics import Arm


class Pairs(NamedTuple):
    """Inputs that the release and the model beside it both answered, on so many devices.

    Of the `labelled` ones, `ours_only` and `theirs_only` are those that one alone got wrong.
    """

    devices: int = 0
    pairs: int = 0
    agreed: int = 0
    labelled: int = 0
    ours_only: int = 0
    theirs_only: int = 0


class Arms(NamedTuple):
    """A quantity on the devices of both arms: each device's mean since the phase began, and x.

    x is its mean in the day before the rollout's first offer.
    """

    candidate: Arm = Arm()
    control: Arm = Arm()


class Promised(NamedTuple):
    """The share of wrong answers that confidences promise, by device, in both arms.

    `drifting` are the devices of candidate and control that were left out: their input changed.
    """

    arms: Arms = Arms()
    drifting: tuple[int, int] = (0, 0)


class Metric(NamedTuple):
    """What a query found when it was asked last, at Unix seconds, or why it found nothing."""

    value: float | None
    at: float
    fault: str = ""


class Evidence(NamedTuple):
    """All of it. Latency, or the percentile of each device, is in ln(1 + microseconds).

    `changed` is 1 for a device that drifts, `failed` is the share of requests, `deaths` are the
    worker's in a minute of service, `watts` are the logarithm of what the machine used on average.
    `deleted` names gates: retention deleted some of what they read since the phase began.
    """

    pairs: Pairs = Pairs()
    latency: Arms = Arms()
    changed: Arms = Arms()
    failed: Arms = Arms()
    deaths: Arms = Arms()
    promised: Promised = Promised()
    watts: Arms = Arms()
    values: tuple[tuple[str, Arms], ...] = ()
    metrics: tuple[tuple[str, Metric], ...] = ()
    deleted: tuple[str, ...] = ()

    def value(self, name: str) -> Arms:
        """Return the arms of a named business value."""
        return dict(self.values).get(name, Arms())
