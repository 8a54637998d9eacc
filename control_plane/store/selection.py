"""Which devices a selector means, as a condition in SQL; what selectors are stands in `fleet`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, String, and_, case, cast, false, func, not_, or_, true, tuple_

from control_plane.fleet.labels import RESERVED
from control_plane.fleet.selectors import Listed, OfKinds, Operator, Requirement, Without
from control_plane.store.schema import device

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from control_plane.fleet.selectors import Condition, Selector

_NUMBER = "^-?[0-9]{1,18}$"


def chosen(selector: Selector) -> ColumnElement[bool]:
    """Say whether a device with access that stays is selected."""
    stays = (device.c.revoked.is_(None), device.c.retiring.is_(None))
    return and_(true(), *stays, all_hold(selector))


def attribute(key: str) -> Any:  # noqa: ANN401 - a column of text
    """Say what a device has under a label, or a fact that it reported; NULL where it has none."""
    table = device.c.facts if key.startswith(RESERVED) else device.c.labels
    return table[key].as_string()


def kind(names: tuple[str, ...]) -> list[Any]:
    """Say facts of a device's inventory as text, empty where it does not tell."""
    return [func.coalesce(cast(device.c.inventory[name].as_string(), String), "") for name in names]


def all_hold(selector: Selector) -> ColumnElement[bool]:
    """Say whether a device is selected, with access or without."""
    return and_(true(), *(_holds(each) for each in selector.requirements))


def _holds(condition: Condition) -> Any:  # noqa: ANN401 - a condition
    match condition:
        case Requirement():
            return _is_met(condition)
        case Listed(devices):
            return device.c.id.in_(sorted(devices))
        case Without(selector):
            return not_(func.coalesce(all_hold(selector), false()))
        case OfKinds(names, values):
            return tuple_(*kind(names)).in_(sorted(values))


def _is_met(requirement: Requirement) -> Any:  # noqa: ANN401 - a condition
    """Say the same of labels and facts as `Requirement.holds`."""
    value = attribute(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value.in_(sorted(requirement.values))
        case Operator.NOT_IN:
            return or_(value.is_(None), value.not_in(sorted(requirement.values)))
        case Operator.EXISTS:
            return value.is_not(None)
        case Operator.MISSING:
            return value.is_(None)
        case Operator.ABOVE | Operator.BELOW:
            number, (bound,) = cast(value, BigInteger), requirement.values
            is_above = requirement.operator is Operator.ABOVE
            found = number > int(bound) if is_above else number < int(bound)
            return case((value.regexp_match(_NUMBER), found), else_=false())
