"""The gates as a rollout file describes them. How each judges stands in `gates`.

A gate that is not sure waits: until `deadline_s` after the soak began, then a person is asked.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.rollouts.spec_parts import Bytes, Duration, Part, Positive, Rate, Seconds

Alpha = Annotated[float, Meta(gt=0, le=0.5)]
ValueName = Annotated[str, Meta(min_length=1, max_length=100)]
DeathsPerDay = Annotated[float, Meta(ge=0, le=86_400)]
NAMED_MAX: Final = 16
_DAY_S: Final = 86_400.0
_BEYOND_MIN: Final = 10


class InstallsGate(Part, frozen=True, kw_only=True):
    """How many devices with an offer may fail, may stay silent, and must have ended at least."""

    failed_share_max: Rate = 0.05
    silent_share_max: Rate = 0.0
    finished_min: Positive = 1


class LabelErrorsGate(Part, frozen=True, kw_only=True):
    """How many more of the candidate's labelled predictions may be wrong than of the control's.

    `margin` is a difference of shares. `error_rate_max` judges where no control is left. A phase
    passes when no excess above the margin is shown; with `is_non_inferiority_needed` only when one
    is excluded.
    """

    margin: Rate
    labels_min: Positive = 200
    deadline_s: Seconds = _DAY_S
    error_rate_max: Rate | None = None
    is_non_inferiority_needed: bool = False


class LabelFreeAccuracyGate(Part, frozen=True, kw_only=True):
    """How many more answers may be wrong than of the control's, by what confidences promise.

    `margin` is a difference of shares. `accuracy_min` judges where no control is left. It is never
    the only gate of a phase.
    """

    margin: Rate = 0.02
    accuracy_min: Rate | None = None
    deadline_s: Seconds = _DAY_S


class ShadowPairsGate(Part, frozen=True, kw_only=True):
    """Whether the release loses more labelled inputs than it wins against the model beside it.

    Both answered them: in the shadow before it serves, the previous model's after that.
    """

    labels_min: Positive = 50
    deadline_s: Seconds = _DAY_S


class AgreementGate(Part, frozen=True, kw_only=True):
    """In what share of mirrored inputs the release has to answer as the model beside it.

    Other answers need not be worse: this finds that something is different.
    """

    share_min: Rate
    pairs_min: Positive = 200
    deadline_s: Seconds = _DAY_S


class LatencyGate(Part, frozen=True, kw_only=True):
    """By what share the mean latency, on a logarithmic scale, may be above the control's.

    With a `percentile` that of each device is compared in place of its mean. `latency_ms_max`
    judges the same number where no control is left: within it and above it have to be shown.
    """

    percentile: Literal[50, 90, 95, 99] | None = None
    increase_max: Annotated[float, Meta(ge=0, le=100)] = 0.2
    latency_ms_max: Annotated[float, Meta(gt=0, le=3_600_000)] | None = None
    is_non_inferiority_needed: bool = False
    deadline_s: Seconds = _DAY_S

    @property
    def answers_min(self) -> int:
        """From how many answers on a device counts: so that ten are beyond its percentile."""
        return 1 if self.percentile is None else _BEYOND_MIN * 100 // (100 - self.percentile)


class ErrorsGate(Part, frozen=True, kw_only=True):
    """How many more of the candidate's requests may fail by its own fault than of the control's.

    `margin` is a difference of shares, `rate_max` judges the share where no control is left.
    """

    margin: Rate = 0.01
    rate_max: Rate | None = None
    is_non_inferiority_needed: bool = False
    deadline_s: Seconds = _DAY_S


class CrashesGate(Part, frozen=True, kw_only=True):
    """How much more often the worker may die with the candidate than with the control's model.

    Deaths a device in a day of service; `crashes_max` judges where no control is left.
    """

    margin: DeathsPerDay = 1.0
    crashes_max: DeathsPerDay | None = None
    deadline_s: Seconds = _DAY_S


class EnergyGate(Part, frozen=True, kw_only=True):
    """By what share the mean power of a device may be above the control's.

    `watts_max` judges it where no control is left. Devices whose platform does not tell do not
    count.
    """

    increase_max: Annotated[float, Meta(ge=0, le=100)] = 0.2
    watts_max: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    deadline_s: Seconds = _DAY_S


class DriftGate(Part, frozen=True, kw_only=True):
    """By how much the share of devices whose input changed may be above the control's."""

    margin: Rate = 0.1
    changed_share_max: Rate | None = None
    deadline_s: Seconds = _DAY_S


class ValueGate(Part, frozen=True, kw_only=True):
    """A business value by its name: how far its mean by device may be worse than the control's.

    `margin`, `effect` (the size of a change that would matter) and `limit`, which judges where no
    control is left, are in the value's own unit.
    """

    name: ValueName
    worse: Literal["higher", "lower"]
    effect: Annotated[float, Meta(gt=0)]
    margin: Annotated[float, Meta(ge=0)] = 0.0
    limit: float | None = None
    is_non_inferiority_needed: bool = False
    deadline_s: Seconds = _DAY_S


class TrafficGate(Part, frozen=True, kw_only=True):
    """How many bytes a device may fetch for the release, on average over those that ended."""

    device_bytes_max: Bytes


class MetricGate(Part, frozen=True, kw_only=True):
    """A query that a Prometheus server answers with one number: within which limits it must be.

    It is asked every `every_s`. An answer that is older than three times that says nothing.
    """

    name: ValueName
    url: Annotated[str, Meta(pattern=r"\Ahttps?://[!-~]{1,300}\Z")]
    query: Annotated[str, Meta(min_length=1, max_length=4_000)]
    at_most: float | None = None
    at_least: float | None = None
    every_s: Duration = 60.0
    deadline_s: Seconds = _DAY_S


Values = Annotated[tuple[ValueGate, ...], Meta(max_length=NAMED_MAX)]
Metrics = Annotated[tuple[MetricGate, ...], Meta(max_length=NAMED_MAX)]


class Gates(Part, frozen=True, kw_only=True):
    """The rules that every phase has to pass.

    `alpha` is the chance, at most, that a phase stops a candidate that is no worse than its
    margins; the gates that test share it evenly.
    """

    alpha: Alpha = 0.05
    installs: InstallsGate = InstallsGate()
    label_errors: LabelErrorsGate | None = None
    label_free_accuracy: LabelFreeAccuracyGate | None = None
    shadow_pairs: ShadowPairsGate | None = None
    agreement: AgreementGate | None = None
    latency: LatencyGate | None = None
    errors: ErrorsGate | None = None
    crashes: CrashesGate | None = None
    energy: EnergyGate | None = None
    drift: DriftGate | None = None
    values: Values = ()
    traffic: TrafficGate | None = None
    metrics: Metrics = ()

    @property
    def alpha_each(self) -> float:
        """The part of `alpha` that each gate with a test has."""
        singles = (
            self.label_errors,
            self.label_free_accuracy,
            self.shadow_pairs,
            self.agreement,
            self.latency,
            self.errors,
            self.crashes,
            self.energy,
            self.drift,
        )
        tests = sum(gate is not None for gate in singles) + len(self.values)
        return self.alpha / max(tests, 1)


class PhaseGates(Part, frozen=True, kw_only=True):
    """What is different for one phase: a gate that is named replaces the rollout's, null omits it.

    Installs cannot be left out; lists are replaced as a whole.
    """

    alpha: Alpha | UnsetType = UNSET
    installs: InstallsGate | UnsetType = UNSET
    label_errors: LabelErrorsGate | UnsetType | None = UNSET
    label_free_accuracy: LabelFreeAccuracyGate | UnsetType | None = UNSET
    shadow_pairs: ShadowPairsGate | UnsetType | None = UNSET
    agreement: AgreementGate | UnsetType | None = UNSET
    latency: LatencyGate | UnsetType | None = UNSET
    errors: ErrorsGate | UnsetType | None = UNSET
    crashes: CrashesGate | UnsetType | None = UNSET
    energy: EnergyGate | UnsetType | None = UNSET
    drift: DriftGate | UnsetType | None = UNSET
    values: Values | UnsetType = UNSET
    traffic: TrafficGate | UnsetType | None = UNSET
    metrics: Metrics | UnsetType = UNSET

    def over(self, general: Gates) -> Gates:
        """Return the gates of the phase."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        given = {name: gate for name, gate in own.items() if gate is not UNSET}
        return msgspec.structs.replace(general, **given)
