"""What may be said of a candidate at any moment, however often one looks. Pure.

Two kinds of evidence. Between arms the unit is the device (`Arm`, `Difference`): devices differ, so
their requests are not independent. On labels of the same few devices the unit is the label
(`log_evidence` and its bounds): valid for these devices, silent about others. Larger is worse
throughout. Which gate asks what is decided in `gates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

DEVICES_MIN: Final = 10
"""Devices an arm from which the test between arms is valid: it is asymptotic in devices."""
NON_INFERIORITY_DEVICES_MIN: Final = 20
OBSERVATIONS_MIN: Final = 200
POWER: Final = 0.95
TAU_SHARE: Final = 0.01
"""Standard deviation of the effects that a test of error shares expects."""
TAU_LOG: Final = 0.1
"""The same for the logarithm of a latency."""
ODDS_RATIOS: Final = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0)
"""How much worse than the null the alternatives of a proportion are."""
SIGN_SHARES: Final = (0.55, 0.6, 0.67, 0.75, 0.85)
"""Shares of disagreements lost by the candidate, as the sign test expects them."""

_POWER_Z: Final = 1.6448536269514722  # the quantile of the normal distribution at POWER
_VARIANCE_MIN: Final = 1e-9
_BISECTIONS: Final = 60


class Arm(NamedTuple):
    """One arm in sums over its devices: of x, the mean of a device before, and z, its mean since.

    `observations` is their number since, over all devices, and `total` what they add up to. Sums of
    arms that share no device add.
    """

    devices: int = 0
    observations: int = 0
    x: float = 0.0
    z: float = 0.0
    xx: float = 0.0
    xz: float = 0.0
    zz: float = 0.0
    total: float = 0.0

    @classmethod
    def of(
        cls,
        since: Sequence[float],
        before: Sequence[float],
        observations: int,
        total: float | None = None,
    ) -> Arm:
        """Return the sums of devices with these means; all zero before stands for no history.

        Without a `total` each device is taken to have made as many observations.
        """
        pairs = list(zip(before, since, strict=True))
        even = math.fsum(since) * observations / max(len(pairs), 1)
        return cls(
            devices=len(pairs),
            observations=observations,
            x=math.fsum(before),
            z=math.fsum(since),
            xx=math.fsum(x * x for x, _ in pairs),
            xz=math.fsum(x * z for x, z in pairs),
            zz=math.fsum(z * z for _, z in pairs),
            total=even if total is None else total,
        )

    @property
    def before(self) -> float:
        """The mean over devices before."""
        return self.x / self.devices

    @property
    def since(self) -> float:
        """The mean over devices since."""
        return self.z / self.devices

    def centred(self) -> tuple[float, float, float]:
        """Return the sums of squares and products around the means: xx, xz, zz."""
        return (
            self.xx - self.x * self.before,
            self.xz - self.x * self.since,
            self.zz - self.z * self.since,
        )


class Difference(NamedTuple):
    """Candidate less control: the mean over devices, and the variance of that mean.

    Mixture SPRT with normal effects of variance tau squared (Robbins 1970; Johari, Pekelis and
    Walsh, "Always valid inference", 2015). `devices` and `observations` are those of the smaller
    arm.
    """

    value: float
    variance: float
    devices: int
    observations: int
    tau: float = TAU_SHARE

    @property
    def is_testable(self) -> bool:
        """Whether both arms have the devices and observations that the test needs."""
        return self.devices >= DEVICES_MIN and self.observations >= OBSERVATIONS_MIN

    def log_likelihood_ratio(self, margin: float = 0.0) -> float:
        """Return ln of the mixture likelihood ratio against a true difference of `margin`."""
        wide = self.variance + self.tau**2
        gain = (self.tau * (self.value - margin)) ** 2 / (2 * self.variance * wide)
        return 0.5 * math.log(self.variance / wide) + gain

    def half_width(self, alpha: float) -> float:
        """Return how far from `value` the true difference may be: a confidence sequence.

        It is the same test solved for the difference; at all looks together it misses the truth
        with probability alpha at most.
        """
        wide = self.variance + self.tau**2
        evidence = math.log(1 / alpha) + 0.5 * math.log(wide / self.variance)
        return math.sqrt(2 * self.variance * wide / self.tau**2 * evidence)

    def is_harm(self, alpha: float, margin: float = 0.0) -> bool:
        """Whether it is shown that the candidate is worse by more than `margin`."""
        is_shown = self.log_likelihood_ratio(margin) > math.log(1 / alpha)
        return self.is_testable and self.value > margin and is_shown

    def is_not_inferior(self, alpha: float, margin: float) -> bool:
        """Whether it is shown that the candidate is worse by less than `margin`."""
        is_large = self.is_testable and self.devices >= NON_INFERIORITY_DEVICES_MIN
        return is_large and self.value + self.half_width(alpha) < margin

    def detectable(self, alpha: float, margin: float = 0.0) -> float:
        """Return the true difference that this look alone finds with probability POWER.

        A look finds what is beyond margin and half-width; the estimate itself varies about the
        truth by the square root of `variance`. Earlier looks only add to the probability.
        """
        return margin + self.half_width(alpha) + _POWER_Z * math.sqrt(self.variance)


def compare(
    candidate: Arm, control: Arm, *, tau: float = TAU_SHARE, is_share: bool = True
) -> Difference | None:
    """Return the difference of two arms, adjusted by what each device was before (CUPED).

    y = z - theta (x - mean x), theta the slope of z on x pooled within arms (Deng, Xu, Kohavi and
    Walker, 2013). The variance is that between devices, for shares not below the binomial one.
    None with fewer than two devices in an arm: then there is no variance.
    """
    if min(candidate.devices, control.devices) < 2:  # noqa: PLR2004 - a variance needs two
        return None
    theta = _slope(candidate, control)
    raw = candidate.since - control.since
    floor = max(_binomial_variance(candidate, control) if is_share else 0.0, _VARIANCE_MIN)
    return Difference(
        value=raw - theta * (candidate.before - control.before),
        variance=max(_variance(candidate, theta) + _variance(control, theta), floor),
        devices=min(candidate.devices, control.devices),
        observations=min(candidate.observations, control.observations),
        tau=tau,
    )


def mean_of(arm: Arm, *, tau: float) -> Difference | None:
    """Return the mean over an arm's devices as its difference from zero; None without a variance.

    One arm has half the devices from which two have their variance, and less is known of it: it is
    taken larger, as that of Student's t with one degree of freedom less than devices.
    """
    if arm.devices <= 3:  # noqa: PLR2004 - Student's t with two degrees has no variance
        return None
    variance = _variance(arm, 0.0) * (arm.devices - 1) / (arm.devices - 3)
    return Difference(
        value=arm.since,
        variance=max(variance, _VARIANCE_MIN),
        devices=arm.devices,
        observations=arm.observations,
        tau=tau,
    )


def log_evidence(
    hits: float, trials: int, null: float, odds_ratios: Sequence[float] = ODDS_RATIOS
) -> float:
    """Return ln E against "the mean chance of a hit so far was never above `null`".

    E is the mean, over the odds ratios r, of r^hits / (1 + null (r - 1))^trials. While the null
    holds, E exceeds 1/alpha at any look with probability alpha at most (Ville). Each trial may have
    a chance of its own: ln(1 + p (r - 1)) is concave in p, so equal chances are the worst case. A
    trial may also bring a part of a hit: r^x is convex in x, so whole hits are the worst case.
    """
    terms = [hits * math.log(r) - trials * math.log1p(null * (r - 1)) for r in odds_ratios]
    largest = max(terms)
    return largest + math.log(sum(math.exp(term - largest) for term in terms) / len(terms))


def sign_log_evidence(candidate_only: int, control_only: int) -> float:
    """Return ln E against "of the disagreements the candidate is wrong in half at most".

    Both models answered the same labelled inputs; counted are those that only one got wrong. Exact
    for any number and mix of devices, under any number of looks.
    """
    ratios = [share / (1 - share) for share in SIGN_SHARES]
    return log_evidence(candidate_only, candidate_only + control_only, 0.5, ratios)


def lower_bound(hits: float, trials: int, alpha: float) -> float:
    """Return what the mean chance of a hit is above, at all looks with probability 1 - alpha.

    Every chance that `log_evidence` does not refute is above it: ln E falls as the null grows.
    """
    if not hits:
        return 0.0
    refuted, possible = 0.0, hits / trials
    for _ in range(_BISECTIONS):
        middle = (refuted + possible) / 2
        if log_evidence(hits, trials, middle) > math.log(1 / alpha):
            refuted = middle
        else:
            possible = middle
    return refuted


def upper_bound(hits: float, trials: int, alpha: float) -> float:
    """Return what the mean chance of a hit is below, at all looks with probability 1 - alpha."""
    return 1.0 - lower_bound(trials - hits, trials, alpha)


def hits_beyond(trials: int, limit: float, alpha: float) -> int | None:
    """Return the fewest hits of `trials` that show a chance above `limit`; None if none do."""
    threshold = math.log(1 / alpha)
    if log_evidence(trials, trials, limit) <= threshold:
        return None
    few, enough = -1, trials
    while enough - few > 1:
        middle = (few + enough) // 2
        if log_evidence(middle, trials, limit) > threshold:
            enough = middle
        else:
            few = middle
    return enough


def _slope(candidate: Arm, control: Arm) -> float:
    xx, xz, _ = (sum(pair) for pair in zip(candidate.centred(), control.centred(), strict=True))
    return xz / xx if xx > _VARIANCE_MIN else 0.0


def _variance(arm: Arm, theta: float) -> float:
    """Return the variance of the mean of an arm, after the adjustment."""
    xx, xz, zz = arm.centred()
    return max(zz - 2 * theta * xz + theta**2 * xx, 0.0) / (arm.devices - 1) / arm.devices


def _binomial_variance(candidate: Arm, control: Arm) -> float:
    if not min(candidate.observations, control.observations):
        return 0.0
    pooled = (candidate.z + control.z) / (candidate.devices + control.devices)
    shares = 1 / candidate.observations + 1 / control.observations
    return max(pooled * (1 - pooled), 0.0) * shares
