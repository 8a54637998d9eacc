"""Devices beside their fleet, and one column's histograms, on demand."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.store.outcomes import Asked
from control_plane.telemetry.apart import Apart, apart
from control_plane.telemetry.merge import merge
from control_plane.telemetry.standing import WatchKey
from firmware_bundles.errors import NotFound, ShoalError
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.watch_codec import parse_watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from control_plane.store.outcomes import Outcomes
    from control_plane.store.watches import Watches
    from control_plane.telemetry.baselines import Baselines
    from control_plane.telemetry.standing import WatchRow
    from firmware_bundles.sketches.baseline import Baseline, Column

WINDOWS_MAX: Final = 2_000


class Question(NamedTuple):
    """Of which devices and family (None: all), over the windows of the last `past_s`."""

    cohort: str | None
    device: str | None
    family: str | None
    past_s: float


class DeviceDrift(NamedTuple):
    """A model on a device beside the other devices with it; `row` None where nothing is watched."""

    device_id: str
    family: str
    model: str
    version: str | None
    rows: int
    fleet_rows: int
    fleet_devices: int
    row: WatchRow | None
    columns: list[Apart]


class Shares(NamedTuple):
    """Counters of one column: missing, below, the bins, above."""

    rows: int
    counts: list[int]


class Histograms(NamedTuple):
    """One column: the signed baseline, what came lately, and a device's own reference."""

    column: Column
    baseline: Shares
    current: Shares
    reference: Shares | None


_Places = dict[tuple[str, str, str | None], dict[str, list[bytes]]]


class DeviceDrifts:
    """Merges and compares on demand; of very many windows the newest."""

    def __init__(
        self,
        outcomes: Outcomes,
        watches: Watches,
        baselines: Baselines,
        members: Callable[[str], Sequence[str]],
        clock: Callable[[], float],
    ) -> None:
        self._outcomes = outcomes
        self._watches = watches
        self._baselines = baselines
        self._members = members
        self._clock = clock

    def find(self, question: Question) -> list[DeviceDrift]:
        """Return devices beside all others of the cohort, by model. Raises NotFound."""
        rows = {row.key: row for row in self._watches.rows(question.family)}
        found = []
        for (family, model, version), devices in self._windows(question).items():
            baseline = self._baselines.find(model)
            if baseline is None:
                continue
            sketches = {name: merge(baseline, bodies).sketch for name, bodies in devices.items()}
            whole = _whole(baseline, sketches)
            for name in sorted(sketches):
                if question.device not in {None, name}:
                    continue
                place = WatchKey(name, family, model)
                found.append(_beside(rows.get(place), version, place, sketches, whole))
        return found

    def histograms(self, question: Question, model: str, column: str) -> Histograms:
        """Return one column's histograms. Raises NotFound."""
        baseline = self._baselines.find(model)
        names = [] if baseline is None else [each.name for each in baseline.columns]
        if baseline is None or column not in names:
            raise NotFound(f"no model {model[:12]!r} with a column {column!r:.80} is known here")
        place = names.index(column)
        bodies = [
            body
            for (_, of, _), devices in self._windows(question).items()
            if of == model
            for name, found in devices.items()
            if question.device in {None, name}
            for body in found
        ]
        return Histograms(
            column=baseline.columns[place],
            baseline=_shares(Sketch.of_held_out(baseline), place),
            current=_shares(merge(baseline, bodies).sketch, place),
            reference=self._reference(question.device, model, baseline, place),
        )

    def _windows(self, question: Question) -> _Places:
        devices = None if question.cohort is None else self._members(question.cohort)
        asked = Asked(devices, question.family, self._clock() - question.past_s)
        found: _Places = defaultdict(lambda: defaultdict(list))
        for window in self._outcomes.windows(asked, WINDOWS_MAX):
            at = window.place
            found[at.family, at.model, at.version][at.device_id].append(window.body)
        return found

    def _reference(
        self, device: str | None, model: str, baseline: Baseline, place: int
    ) -> Shares | None:
        if device is None:
            return None
        for row in self._watches.rows(device_ids=[device]):
            body = self._watches.load(row.key).body if row.key.model == model else None
            if body is not None:
                return _kept(body, baseline, place)
        return None


def _kept(body: bytes, baseline: Baseline, place: int) -> Shares | None:
    try:
        reference = parse_watch(body, baseline).reference
    except ShoalError:
        return None
    return None if reference is None else _shares(reference.sketch, place)


def _shares(sketch: Sketch, place: int) -> Shares:
    return Shares(sketch.rows, sketch.counts_of(place).tolist())


def _whole(baseline: Baseline, sketches: dict[str, Sketch]) -> Sketch:
    whole = Sketch(baseline)
    for sketch in sketches.values():
        whole.merge(sketch)
    return whole


def _beside(
    row: WatchRow | None,
    version: str | None,
    place: WatchKey,
    sketches: dict[str, Sketch],
    whole: Sketch,
) -> DeviceDrift:
    device_id, family, model = place
    rest = Sketch(whole.baseline)
    rest.merge(whole)
    rest.subtract(sketches[device_id])
    return DeviceDrift(
        device_id=device_id,
        family=family,
        model=model,
        version=version,
        rows=sketches[device_id].rows,
        fleet_rows=rest.rows,
        fleet_devices=len(sketches) - 1,
        row=row,
        columns=apart(sketches[device_id], rest),
    )
