"""What has to fit together in a rollout file, beyond the type of each field. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from control_plane.rollouts.gate_specs import Gates, LabelFreeAccuracyGate
from control_plane.rollouts.phase_specs import PhaseSpec
from control_plane.rollouts.spec import HoldOut, RolloutSpec

_OBSERVING: Final = (
    *(
        "label_errors",
        "shadow_pairs",
        "agreement",
        "latency",
        "errors",
        "crashes",
        "energy",
        "drift",
    ),
    *("values", "metrics"),
)
"""Gates on what devices or others measure while the release answers."""


class Problem(NamedTuple):
    """What is wrong, and at which place like `phases[1].share`."""

    place: str
    what: str
    hint: str = ""


def problems(spec: RolloutSpec) -> Iterator[Problem]:
    """Yield everything that does not fit, in the order of the file's reference."""
    if spec.hold_out is not None:
        yield from _size(spec.hold_out, "hold_out")
    for index, phase in enumerate(spec.phases):
        place = f"phases[{index}]"
        yield from _size(phase, place)
        yield from _growth(phase, spec.phases[:index], place)
        yield from _shadow(phase, spec, place)
        yield from _gates(phase.gates.over(spec.gates), spec, f"{place}.gates")
        yield from _label_free(phase, spec, place)
    yield from _gates(spec.gates, spec, "gates")
    yield from _capture(spec)
    if spec.phases[-1].mode != "serve":
        yield Problem(
            f"phases[{len(spec.phases) - 1}]",
            "the last phase has to serve",
            "Add a phase in mode serve; a rollout ends with devices that serve its release.",
        )


def _size(part: PhaseSpec | HoldOut, place: str) -> Iterator[Problem]:
    if (part.share is None) == (part.count is None):
        yield Problem(place, "give either share or count")


def _growth(phase: PhaseSpec, earlier: Sequence[PhaseSpec], place: str) -> Iterator[Problem]:
    """A phase that serves goes beyond those that served; one in shadow beyond all."""
    rivals = [each for each in earlier if phase.mode == "shadow" or each.mode == "serve"]
    for name in ("share", "count"):
        size = getattr(phase, name)
        before = [getattr(each, name) for each in rivals]
        reached = max((each for each in before if each is not None), default=0)
        if size is not None and size <= reached:
            yield Problem(
                f"{place}.{name}",
                f"{size} does not go beyond the {reached} of an earlier phase",
                "Shares and counts are cumulative: the last phase usually has share 1.0.",
            )


def _capture(spec: RolloutSpec) -> Iterator[Problem]:
    wanted = spec.policy.capture
    if wanted is not None and not (
        wanted.share or wanted.confidence_below or wanted.is_out_of_range or wanted.drifted
    ):
        yield Problem(
            "policy.capture",
            "no rule names an input to capture",
            "Give share, confidence_below, is_out_of_range or drifted; or leave capture out.",
        )


def _shadow(phase: PhaseSpec, spec: RolloutSpec, place: str) -> Iterator[Problem]:
    if phase.mode == "shadow" and spec.policy.shadow is None:
        yield Problem(
            f"{place}.mode",
            "a phase in shadow needs policy.shadow",
            "Say there which share of the inputs is mirrored.",
        )


def _label_free(phase: PhaseSpec, spec: RolloutSpec, place: str) -> Iterator[Problem]:
    gates = phase.gates.over(spec.gates)
    if gates.label_free_accuracy is None or any(getattr(gates, name) for name in _OBSERVING):
        return
    is_own = isinstance(phase.gates.label_free_accuracy, LabelFreeAccuracyGate)
    yield Problem(
        f"{place}.gates.label_free_accuracy" if is_own else "gates.label_free_accuracy",
        f"label_free_accuracy may not be the only gate of {place}",
        "An estimate from confidences does not see what labels see: add label_errors,"
        " shadow_pairs, or another gate on what devices measure.",
    )


def _gates(gates: Gates, spec: RolloutSpec, place: str) -> Iterator[Problem]:
    for name in ("shadow_pairs", "agreement"):
        if getattr(gates, name) is not None and spec.policy.shadow is None:
            yield Problem(
                f"{place}.{name}",
                f"{name} needs policy.shadow",
                "Say there which share of the inputs is mirrored.",
            )
    for name in ("values", "metrics"):
        known: set[str] = set()
        for index, gate in enumerate(getattr(gates, name)):
            if gate.name in known:
                yield Problem(f"{place}.{name}[{index}].name", f"{gate.name!r} is there twice")
            known.add(gate.name)
    for index, gate in enumerate(gates.metrics):
        if gate.at_most is None and gate.at_least is None:
            yield Problem(f"{place}.metrics[{index}]", "give at_most or at_least, or both")
