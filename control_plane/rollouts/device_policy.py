"""The device's own part of a deployment, as a rollout file describes it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.rollouts.phase_specs import Window
from control_plane.rollouts.spec_parts import Bytes, Duration, Part
from firmware_bundles.limits import DOWNLOAD_S_DEFAULT, RATE_BYTES_PER_S_DEFAULT
from firmware_bundles.wire.messages import (
    CAPTURE_FIELDS_MAX,
    Capture,
    Conditions,
    Delivery,
    FieldName,
    Shadowing,
    Uploading,
)


class DeviceConditions(Part, frozen=True, kw_only=True):
    """When an update may use a device, and how many bytes of models in one local day.

    Each device judges by itself, also by conditions of its own; what is left out does not matter.
    """

    model_bytes_per_day_max: Bytes | None = None
    metered_bytes_per_day_max: Bytes | None = None
    written_bytes_per_day_max: Bytes | None = None
    window: Window | None = None
    battery_percent_min: Annotated[float, Meta(ge=0, le=100)] | None = None
    is_mains_needed: bool = False
    temperature_c_max: Annotated[float, Meta(ge=-50, le=150)] | None = None


class DeviceShadow(Part, frozen=True, kw_only=True):
    """Mirror a share of live inputs to the new model before it serves, then to the old one.

    Until `rows_min` were compared, or `duration_s` is over; the device compares no longer than
    its probation lasts after the switch.
    """

    share: Annotated[float, Meta(gt=0, le=1)]
    rows_min: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    duration_s: Duration = 3600.0


class DeviceCapture(Part, frozen=True, kw_only=True):
    """Keep some live inputs as samples for retraining: those that any of these rules names.

    `fields` are the values that are kept: whole input tensors (`image`) or single values
    (`image[21]`). `drifted` names features of the baseline: inputs that lie at either end of one of
    them are kept. `bytes_per_day_max` is of one device, before compression.
    """

    fields: Annotated[tuple[FieldName, ...], Meta(min_length=1, max_length=CAPTURE_FIELDS_MAX)]
    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    confidence_below: Annotated[float, Meta(ge=0, le=1)] = 0.0
    is_out_of_range: bool = False
    drifted: Annotated[tuple[FieldName, ...], Meta(max_length=CAPTURE_FIELDS_MAX)] = ()
    bytes_per_day_max: Bytes = 1024 * 1024


class DevicePolicy(Part, frozen=True, kw_only=True):
    """Limits for the device's own part of a deployment, beside its probation.

    `latency_ms_max` (the mean of all answers) and `memory_bytes_max` (of the worker) end a
    probation that exceeds them; 0 sets no limit. Of single predictions `predictions_share` leave
    the device, as long as all telemetry of a day stays within `telemetry_bytes_per_day_max`.
    """

    self_test_s_max: Annotated[float, Meta(gt=0, le=3_600)] = 30.0
    attempts_max: Annotated[int, Meta(ge=1, le=10)] = 3
    latency_ms_max: Annotated[float, Meta(ge=0, le=3_600_000)] = 0.0
    memory_bytes_max: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    download_s_max: Duration = DOWNLOAD_S_DEFAULT
    rate_bytes_per_s_min: Annotated[int, Meta(ge=0, lt=2**31)] = RATE_BYTES_PER_S_DEFAULT
    conditions: DeviceConditions = DeviceConditions()
    shadow: DeviceShadow | None = None
    capture: DeviceCapture | None = None
    predictions_share: Annotated[float, Meta(ge=0, le=1)] = 1.0
    telemetry_bytes_per_day_max: Bytes | None = None

    def captured(self) -> Capture | msgspec.UnsetType:
        """Return what assignments say of samples; nothing if none are wanted."""
        if self.capture is None:
            return msgspec.UNSET
        return msgspec.convert(self.capture, Capture, from_attributes=True)

    def delivery(self, window: str | None) -> Delivery | msgspec.UnsetType:
        """Return what assignments say of the download; nothing if nothing was chosen.

        A `window` stands above that of the conditions.
        """
        conditions = msgspec.convert(self.conditions, Conditions, from_attributes=True)
        delivery = Delivery(
            download_s_max=self.download_s_max,
            rate_bytes_per_s_min=self.rate_bytes_per_s_min,
            conditions=msgspec.structs.replace(conditions, window=window or conditions.window),
        )
        return msgspec.UNSET if delivery == Delivery() else delivery

    def uploading(self) -> Uploading | msgspec.UnsetType:
        """Return what assignments say of uploads; nothing if nothing was chosen."""
        upload = Uploading(
            predictions_share=self.predictions_share,
            bytes_per_day_max=self.telemetry_bytes_per_day_max,
        )
        return msgspec.UNSET if upload == Uploading() else upload

    def shadowing(self, *, is_held: bool) -> Shadowing | msgspec.UnsetType:
        """Return what assignments say of shadows; nothing if none is wanted."""
        if self.shadow is None:
            return msgspec.UNSET
        return Shadowing(
            share=self.shadow.share,
            rows_min=self.shadow.rows_min,
            duration_s=self.shadow.duration_s,
            is_held=is_held or msgspec.UNSET,
        )
