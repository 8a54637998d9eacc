"""What devices of a rollout add up to since a time and before it: what gates on averages compare.

Business values, the logarithm of latency and wrong answers, by device and arm, as pure values. A
device where the candidate was offered counts with the candidate's predictions, another with those
of other models.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import and_, case, func, select

from control_plane.rollouts.statistics import Arm as Sums
from control_plane.store.label_sums import HISTORY_S
from control_plane.store.schema import (
    deployment,
    release,
    rollout,
    segment,
    value_sum,
)
from control_plane.store.tally_schema import service_count
from firmware_bundles.wire.messages import Arm
from firmware_bundles.wire.totals import LOG_SCALE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sqlalchemy import ColumnElement, Connection, Select

    from control_plane.rollouts.model import Rollout

_MINUTE_S: Final = 60.0
_candidate: Final = release.alias("candidate")
_IS_OFFERED: Final = and_(deployment.c.generation > 0, deployment.c.mode == "serve")


class Moments(NamedTuple):
    """How many (or how long), their sum, and that of their squares, in the unit of the quantity."""

    n: float = 0
    total: float = 0.0
    total2: float = 0.0


class DeviceSums(NamedTuple):
    """One device's moments of a quantity in the day before the rollout's first offer, and since."""

    device_id: str
    arm: Arm
    before: Moments
    since: Moments


def values(
    connection: Connection, wanted: Rollout, name: str, since: float, first: float
) -> list[DeviceSums]:
    """Return the moments of one named business value by device, of those that have some since.

    `since` is the phase's first offer, `first` the rollout's.
    """
    said = value_sum.c
    return _by_device(
        connection,
        wanted,
        value_sum,
        (said.n, said.total * said.quantum, said.total2 * said.quantum * said.quantum),
        said.name == name,
        (since, first),
    )


def log_latencies(
    connection: Connection, wanted: Rollout, since: float, first: float
) -> list[DeviceSums]:
    """Return the moments of ln(1 + microseconds) of all answers by device; see `values`."""
    said = segment.c
    return _by_device(
        connection,
        wanted,
        segment,
        (said.answered, said.log_latency / LOG_SCALE, said.log_latency2 / LOG_SCALE**2),
        said.answered.is_not(None),
        (since, first),
    )


def promises(
    connection: Connection, wanted: Rollout, since: float, first: float
) -> list[DeviceSums]:
    """Return the moments of answers that confidences promise to be wrong by device; see `values`.

    Chances are added up: their squares are not known, and not needed.
    """
    said = segment.c
    wrong = said.promised_rows - said.promised_right
    return _by_device(
        connection,
        wanted,
        segment,
        (said.promised_rows, wrong, wrong),
        said.promised_rows > 0,
        (since, first),
    )


def failures(
    connection: Connection, wanted: Rollout, since: float, first: float
) -> list[DeviceSums]:
    """Return the moments of failed (1) among all requests by device; see `values`."""
    said = service_count.c
    return _by_device(
        connection,
        wanted,
        service_count,
        (said.requests, said.failed, said.failed),
        said.requests > 0,
        (since, first),
    )


def deaths(connection: Connection, wanted: Rollout, since: float, first: float) -> list[DeviceSums]:
    """Return the workers' deaths among minutes of service by device; see `values`."""
    said = service_count.c
    return _by_device(
        connection,
        wanted,
        service_count,
        (said.seconds / _MINUTE_S, said.deaths, said.deaths),
        said.seconds > 0,
        (since, first),
    )


def log_watts(
    connection: Connection, wanted: Rollout, since: float, first: float
) -> list[DeviceSums]:
    """Return the moments of the logarithm of a device's watts in told minutes; see `values`.

    As if each minute had taken the device's mean: what reports tell is no finer.
    """
    said = service_count.c
    devices = _by_device(
        connection,
        wanted,
        service_count,
        (said.measured_s, said.joules, said.joules),
        said.measured_s > 0,
        (since, first),
    )
    return [
        each._replace(before=_log_mean(each.before), since=_log_mean(each.since))
        for each in devices
    ]


def _log_mean(told: Moments) -> Moments:
    """Return minutes and the logarithm of what a second had; of nothing there is none."""
    if told.total <= 0:
        return Moments()
    minutes, log = told.n / _MINUTE_S, math.log(told.total / told.n)
    return Moments(minutes, minutes * log, minutes * log**2)


def arms(devices: Iterable[DeviceSums]) -> dict[Arm, Sums]:
    """Return the sums of both arms over devices' means, for the test between arms.

    A device without a before is taken for the average one.
    """
    known = [each for each in devices if each.since.n]
    befores = [each.before.total / each.before.n for each in known if each.before.n]
    average = sum(befores) / len(befores) if befores else 0.0
    return {arm: _sums([e for e in known if e.arm is arm], average) for arm in _ARMS}


_ARMS: Final = (Arm.CANDIDATE, Arm.CONTROL)


def _sums(devices: Sequence[DeviceSums], average: float) -> Sums:
    return Sums.of(
        since=[each.since.total / each.since.n for each in devices],
        before=[
            each.before.total / each.before.n if each.before.n else average for each in devices
        ],
        observations=int(sum(each.since.n for each in devices)),
        total=sum(each.since.total for each in devices),
    )


def _by_device(
    connection: Connection,
    wanted: Rollout,
    table: Any,  # noqa: ANN401 - a table
    moments: tuple[Any, Any, Any],
    condition: ColumnElement[bool],
    times: tuple[float, float],
) -> list[DeviceSums]:
    is_before, is_since = periods(table, *times)
    sums = [_sum(part, each) for part in (is_before, is_since) for each in moments]
    query = (
        of_devices(wanted, table, times[1], sums)
        .where(condition)
        .group_by(deployment.c.device_id, deployment.c.generation, deployment.c.mode)
        .having(_sum(is_since, moments[0]) > 0)
        .order_by(deployment.c.device_id)
    )
    return [
        DeviceSums(
            device_id,
            Arm(arm),
            Moments(*(float(each) for each in sums[:3])),
            Moments(*(float(each) for each in sums[3:])),
        )
        for device_id, arm, *sums in connection.execute(query)
    ]


def periods(
    table: Any,  # noqa: ANN401 - a table
    since: float,
    first: float,
) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return which rows of a table are of a device's day before, and which of its arm since.

    For statements that `of_devices` begins.
    """
    is_candidate = table.c.model == _candidate.c.digest
    is_own = case((_IS_OFFERED, is_candidate), else_=~is_candidate)
    is_before = and_(table.c.received < first, ~is_candidate)
    return is_before, and_(table.c.received >= since, is_own)


def of_devices(
    wanted: Rollout,
    table: Any,  # noqa: ANN401 - a table
    first: float,
    columns: Sequence[ColumnElement[Any]],
) -> Select[Any]:
    """Select each device's id, its arm and columns of its rows, from a day before `first` on."""
    said = table.c
    arm = case((_IS_OFFERED, Arm.CANDIDATE.value), else_=Arm.CONTROL.value)
    return (
        select(deployment.c.device_id, arm, *columns)
        .select_from(deployment)
        .join(rollout, rollout.c.id == deployment.c.rollout_id)
        .join(_candidate, _candidate.c.path == rollout.c.release_path)
        .join(
            table,
            and_(said.device_id == deployment.c.device_id, said.family == rollout.c.family),
        )
        .where(
            deployment.c.rollout_id == wanted.id,
            deployment.c.generation >= 0,  # others follow another rollout
            said.received >= first - HISTORY_S,
        )
    )


def _sum(condition: ColumnElement[bool], value: Any) -> ColumnElement[float]:  # noqa: ANN401 - a column
    return func.sum(case((condition, value), else_=0))
