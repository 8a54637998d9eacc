"""The gates as a rollout file describes them. How each judges stands in `gates`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.rollouts.spec_parts import Part, Positive, Rate, Seconds

Alpha = Annotated[float, Meta(gt=0, le=0.5)]


class InstallsGate(Part, frozen=True, kw_only=True):
    """How many devices with an offer may fail, may stay silent, and must have ended at least."""

    failed_share_max: Rate = 0.05
    silent_share_max: Rate = 0.0
    finished_min: Positive = 1


class LabelErrorsGate(Part, frozen=True, kw_only=True):
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


class Gates(Part, frozen=True, kw_only=True):
    """The rules that every phase has to pass.

    `alpha` is the chance, at most, that a phase stops a candidate that is no worse than its margin.
    """

    alpha: Alpha = 0.05
    installs: InstallsGate = InstallsGate()
    label_errors: LabelErrorsGate | None = None


class PhaseGates(Part, frozen=True, kw_only=True):
    """What is different for one phase: a gate that is named replaces the rollout's, null omits it.

    Installs cannot be left out.
    """

    alpha: Alpha | UnsetType = UNSET
    installs: InstallsGate | UnsetType = UNSET
    label_errors: LabelErrorsGate | UnsetType | None = UNSET

    def over(self, general: Gates) -> Gates:
        """Return the gates of the phase."""
        own = {name: getattr(self, name) for name in self.__struct_fields__}
        given = {name: gate for name, gate in own.items() if gate is not UNSET}
        return msgspec.structs.replace(general, **given)
