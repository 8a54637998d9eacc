"""How well models do, on demand: gathers what `assessment` judges, by model, arm or device."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.store.outcomes import Asked
from control_plane.telemetry.assessment import Assessment, Material, Treatment, assess, treat
from control_plane.telemetry.merge import merge
from firmware_bundles.errors import InputError, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from control_plane.store.outcomes import LabelRow, OutcomeRow, Outcomes, Place, ValueRow
    from control_plane.telemetry.baselines import Baselines

WINDOWS_MAX: Final = 2_000
_RECENT_S: Final = 86_400.0


class Question(NamedTuple):
    """Of which devices, family and time; by rollout arm if a rollout is named, or by device."""

    cohort: str | None = None
    device: str | None = None
    family: str | None = None
    rollout: str | None = None
    past_s: float = 0.0
    is_by_device: bool = False


class Group(NamedTuple):
    """What an answer is about; arm and device are None where it is not of one."""

    family: str
    model: str
    version: str | None
    arm: str | None
    device_id: str | None


@dataclass
class _Rows:
    devices: set[str] = field(default_factory=set)
    labels: list[LabelRow] = field(default_factory=list)
    outcomes: list[OutcomeRow] = field(default_factory=list)
    values: list[ValueRow] = field(default_factory=list)
    windows: list[bytes] = field(default_factory=list)


class Assessments:
    """Answers questions about models.

    `changed_since` says which devices' watch over a family's model rang since a time.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        baselines: Baselines,
        members: Callable[[str], Sequence[str]],
        clock: Callable[[], float],
        changed_since: Callable[[str, str, float], Mapping[str, bool]],
    ) -> None:
        self._outcomes = outcomes
        self._baselines = baselines
        self._members = members
        self._clock = clock
        self._changed_since = changed_since

    def accuracy(self, question: Question) -> list[tuple[Group, Assessment]]:
        """Return how well each model does. Raises NotFound."""
        return [(group, assess(found)) for group, found in self._gather(question).items()]

    def fairness(
        self, question: Question, favourable: str, rows_min: int
    ) -> list[tuple[Group, Treatment]]:
        """Return how each model that knows the class treats the segments.

        Raises NotFound, also for a class that no model of the answer knows.
        """
        found, gathered = [], self._gather(question)
        for group, material in gathered.items():
            labels = material.baseline.labels if material.baseline else ()
            if favourable in labels:
                found.append((group, treat(material, labels.index(favourable), rows_min)))
        if gathered and not found:
            raise NotFound(f"no model of these devices has the class {favourable!r:.80}")
        return found

    def _gather(self, question: Question) -> dict[Group, Material]:
        asked, arms = self._asked(question)

        found: defaultdict[Group, _Rows] = defaultdict(_Rows)

        def rows_of(place: Place) -> _Rows:
            arm = arms.get(place.device_id, "") if arms else None
            device_id = place.device_id if question.is_by_device else None
            rows = found[Group(*place[1:], arm=arm, device_id=device_id)]
            rows.devices.add(place.device_id)
            return rows

        for label in self._outcomes.labels(asked):
            rows_of(label.place).labels.append(label)
        for outcome in self._outcomes.outcomes(asked):
            rows_of(outcome.place).outcomes.append(outcome)
        for value in self._outcomes.values(asked):
            rows_of(value.place).values.append(value)
        for window in self._outcomes.windows(asked, WINDOWS_MAX):
            rows_of(window.place).windows.append(window.body)
        by_name = sorted(found, key=lambda each: tuple(map(str, each)))
        return {each: self._material(each, found[each]) for each in by_name}

    def _material(self, group: Group, rows: _Rows) -> Material:
        baseline = self._baselines.find(group.model)
        rang = self._changed_since(group.family, group.model, self._clock() - _RECENT_S)
        windows = merge(baseline, rows.windows).sketch if baseline and rows.windows else None
        return Material(
            len(rows.devices),
            rows.labels,
            rows.outcomes,
            rows.values,
            baseline,
            windows,
            has_rung=any(rang.get(device_id, False) for device_id in rows.devices),
        )

    def _asked(self, question: Question) -> tuple[Asked, dict[str, str]]:
        devices: set[str] | None = None
        if question.cohort is not None:
            devices = set(self._members(question.cohort))
        if question.device is not None:
            devices = {question.device} if devices is None else devices & {question.device}
        arms: dict[str, str] = {}
        if question.rollout is not None:
            arms = {name: arm.value for name, arm in self._outcomes.arms(question.rollout).items()}
            if not arms:
                raise NotFound(f"there is no rollout {question.rollout!r:.80} with devices")
            devices = set(arms) if devices is None else devices & set(arms)
        since = self._clock() - question.past_s if question.past_s else 0.0
        if question.past_s < 0:
            raise InputError(f"{question.past_s:g} seconds are no time of the past")
        return Asked(devices, question.family, since), arms
