"""What a person writes to start a rollout, as a frozen value. Reading one stands in `parsing`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from firmware_bundles.identifiers import CohortName, Family, ModelVersion, RolloutId
from firmware_bundles.limits import DOWNLOAD_S_DEFAULT, RATE_BYTES_PER_S_DEFAULT
from firmware_bundles.wire.messages import (
    WINDOW_PATTERN,
    Budgets,
    Conditions,
    Delivery,
    Policy,
    Shadowing,
)

SCHEMA: Final = "1.0"
PHASES_MAX: Final = 32

_MONTH_S: Final = 30 * 86_400
Seconds = Annotated[float, Meta(ge=0, le=_MONTH_S)]
Share = Annotated[float, Meta(gt=0, le=1)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Bytes = Annotated[int, Meta(ge=0, lt=2**53)]
Positive = Annotated[int, Meta(ge=1, lt=2**31)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class PhaseSpec(_Part, frozen=True, kw_only=True):
    """One step: up to which share or count of the cohort to offer, and for how long to watch.

    Both are cumulative, so that phases nest. After `timeout_s` a device that has not ended counts
    as silent.
    """

    share: Share | None = None
    count: Positive | None = None
    soak_s: Seconds = 3_600.0
    timeout_s: Annotated[float, Meta(gt=0, le=_MONTH_S)] = 86_400.0


class InstallsGate(_Part, frozen=True, kw_only=True):
    """How many devices with an offer may fail, may stay silent, and must have ended at least."""

    failed_share_max: Rate = 0.05
    silent_share_max: Rate = 0.0
    finished_min: Positive = 1


class LabelErrorsGate(_Part, frozen=True, kw_only=True):
    """How many more of the candidate's labelled predictions may be wrong than of the control's.

    `margin` is a difference of shares. `error_rate_max` judges where no control is left.
    `deadline_s` after the soak began, too few labels pause. A phase passes when no excess above the
    margin is shown; with `is_non_inferiority_needed` only when one is excluded.
    """

    margin: Rate
    labels_min: Positive = 200
    deadline_s: Seconds = 86_400.0
    error_rate_max: Rate | None = None
    is_non_inferiority_needed: bool = False


class Gates(_Part, frozen=True, kw_only=True):
    """The rules that every phase has to pass.

    `alpha` is the chance, at most, that a phase stops a candidate that is no worse than its margin.
    """

    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    installs: InstallsGate = InstallsGate()
    label_errors: LabelErrorsGate | None = None


class DeviceConditions(_Part, frozen=True, kw_only=True):
    """When an update may use a device, and how many bytes of models in one local day.

    Each device judges by itself, also by conditions of its own; what is left out does not matter.
    """

    model_bytes_per_day_max: Bytes | None = None
    metered_bytes_per_day_max: Bytes | None = None
    written_bytes_per_day_max: Bytes | None = None
    window: Annotated[str, Meta(pattern=WINDOW_PATTERN)] | None = None
    battery_percent_min: Annotated[float, Meta(ge=0, le=100)] | None = None
    is_mains_needed: bool = False
    temperature_c_max: Annotated[float, Meta(ge=-50, le=150)] | None = None


class DeviceShadow(_Part, frozen=True, kw_only=True):
    """Mirror a share of live inputs to the new model before it serves, then to the old one.

    Until `rows_min` were compared, or `duration_s` is over; the device compares no longer than
    its probation lasts after the switch.
    """

    share: Annotated[float, Meta(gt=0, le=1)]
    rows_min: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    duration_s: Annotated[float, Meta(gt=0, le=_MONTH_S)] = 3600.0


class DevicePolicy(_Part, frozen=True, kw_only=True):
    """Limits for the device's own part of a deployment, beside its probation.

    `latency_ms_max` (the mean of all answers) and `memory_bytes_max` (of the worker) end a
    probation that exceeds them; 0 sets no limit.
    """

    self_test_s_max: Annotated[float, Meta(gt=0, le=3_600)] = 30.0
    attempts_max: Annotated[int, Meta(ge=1, le=10)] = 3
    latency_ms_max: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    memory_bytes_max: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    download_s_max: Annotated[float, Meta(gt=0, le=_MONTH_S)] = DOWNLOAD_S_DEFAULT
    rate_bytes_per_s_min: Annotated[int, Meta(ge=0, lt=2**31)] = RATE_BYTES_PER_S_DEFAULT
    conditions: DeviceConditions = DeviceConditions()
    shadow: DeviceShadow | None = None

    def delivery(self) -> Delivery | msgspec.UnsetType:
        """Return what assignments say of the download; nothing if nothing was chosen."""
        delivery = Delivery(
            download_s_max=self.download_s_max,
            rate_bytes_per_s_min=self.rate_bytes_per_s_min,
            conditions=msgspec.convert(self.conditions, Conditions, from_attributes=True),
        )
        return msgspec.UNSET if delivery == Delivery() else delivery

    def shadowing(self) -> Shadowing | msgspec.UnsetType:
        """Return what assignments say of shadows; nothing if none is wanted."""
        if self.shadow is None:
            return msgspec.UNSET
        return msgspec.convert(self.shadow, Shadowing, from_attributes=True)


class RolloutSpec(_Part, frozen=True, kw_only=True):
    """The whole plan: which release, to which cohort, in which phases, under which gates."""

    schema: str | int | float = SCHEMA
    id: RolloutId | None = None
    family: Family
    release: ModelVersion
    cohort: CohortName
    phases: Annotated[tuple[PhaseSpec, ...], Meta(min_length=1, max_length=PHASES_MAX)]
    gates: Gates = Gates()
    on_failure: Literal["rollback", "pause"] = "rollback"
    probation_s: Seconds = 60.0
    policy: DevicePolicy = DevicePolicy()

    def device_policy(self) -> Policy:
        """Return the policy that assignments carry."""
        budgets = Budgets(
            latency_ms_max=self.policy.latency_ms_max,
            memory_bytes_max=self.policy.memory_bytes_max,
        )
        return Policy(
            probation_s=self.probation_s,
            self_test_s_max=self.policy.self_test_s_max,
            attempts_max=self.policy.attempts_max,
            delivery=self.policy.delivery(),
            budgets=budgets if budgets != Budgets() else msgspec.UNSET,
            shadow=self.policy.shadowing(),
        )
