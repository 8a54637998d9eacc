"""What a person writes to start a rollout, as a frozen value. Reading one stands in `parsing`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from control_plane.rollouts.device_policy import DevicePolicy
from control_plane.rollouts.gate_specs import Gates
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.spec_parts import Bytes, Part, Positive, Seconds
from firmware_bundles.identifiers import CohortName, DeviceId, Family, ModelVersion, RolloutId
from firmware_bundles.wire.messages import Budgets, Policy

SCHEMA: Final = "1.1"
PHASES_MAX: Final = 32
EXCLUDED_DEVICES_MAX: Final = 1_000
SELECTOR_CHARS_MAX: Final = 1_000
PRIORITY_MAX: Final = 1_000
STRATA_KEYS_MAX: Final = 4
# The name of a label, or of a fact that devices report.
AttributeName = Annotated[
    str, Meta(max_length=63, pattern=r"\A[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?\Z")
]


class HoldOut(Part, frozen=True, kw_only=True):
    """A share or count of the cohort that no phase reaches: a control until the last one passed.

    Then these devices get the release too, unless they are to be kept without it.
    """

    share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    count: Positive | None = None
    is_kept_after: bool = False


class Exclusions(Part, frozen=True, kw_only=True):
    """Devices of the cohort that the rollout leaves alone: by id, by cohort, by selector."""

    devices: Annotated[tuple[DeviceId, ...], Meta(max_length=EXCLUDED_DEVICES_MAX)] = ()
    cohorts: Annotated[tuple[CohortName, ...], Meta(max_length=PHASES_MAX)] = ()
    selector: Annotated[str, Meta(max_length=SELECTOR_CHARS_MAX)] | None = None


class RolloutBudgets(Part, frozen=True, kw_only=True):
    """What the whole rollout may cost: once devices fetched `bytes_max`, offers are held."""

    bytes_max: Bytes | None = None


class RolloutSpec(Part, frozen=True, kw_only=True):
    """The whole plan: which release, to which cohort, in which phases, under which gates.

    Where devices belong to two rollouts of a family, the higher `priority` has them. Each phase
    reaches devices with the same values of `stratify_by` in the same share. After a
    failure the rollout goes back, only the failed phase does, or a person is asked. Once it is
    completed, devices that come later get the release too, unless it `is_closed_after`.
    """

    schema: str | int | float = SCHEMA
    id: RolloutId | None = None
    family: Family
    release: ModelVersion
    cohort: CohortName
    exclude: Exclusions = Exclusions()
    priority: Annotated[int, Meta(ge=-PRIORITY_MAX, le=PRIORITY_MAX)] = 0
    hold_out: HoldOut | None = None
    stratify_by: Annotated[tuple[AttributeName, ...], Meta(max_length=STRATA_KEYS_MAX)] = (
        "fact/arch",
    )
    phases: Annotated[tuple[PhaseSpec, ...], Meta(min_length=1, max_length=PHASES_MAX)]
    gates: Gates = Gates()
    budgets: RolloutBudgets = RolloutBudgets()
    on_failure: Literal["rollback", "rollback_phase", "pause"] = "rollback"
    is_closed_after: bool = False
    probation_s: Seconds = 60.0
    policy: DevicePolicy = DevicePolicy()

    def course(self) -> tuple[PhaseSpec, ...]:
        """Return the phases as they run: after the file's own, the one that offers to the hold-out.

        That one asks for no approval, and is watched like the last.
        """
        if self.hold_out is None or self.hold_out.is_kept_after:
            return self.phases
        ending = msgspec.structs.replace(self.phases[-1], share=1.0, count=None, approval=False)
        return (*self.phases, ending)

    def device_policy(self, phase: PhaseSpec | None = None) -> Policy:
        """Return the policy that assignments carry, those of a phase where one is given."""
        budgets = Budgets(
            latency_ms_max=self.policy.latency_ms_max,
            memory_bytes_max=self.policy.memory_bytes_max,
        )
        return Policy(
            probation_s=self.probation_s,
            self_test_s_max=self.policy.self_test_s_max,
            attempts_max=self.policy.attempts_max,
            delivery=self.policy.delivery(phase.window if phase else None),
            budgets=budgets if budgets != Budgets() else msgspec.UNSET,
            shadow=self.policy.shadowing(is_held=phase is not None and phase.mode == "shadow"),
            capture=self.policy.captured(),
            upload=self.policy.uploading(),
        )
