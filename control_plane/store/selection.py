"""Which devices a selector means, as a condition in SQL; what selectors are stands in `fleet`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, or_, true

from control_plane.fleet.selectors import Operator
from control_plane.store.schema import device

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement

    from control_plane.fleet.selectors import Requirement, Selector


def chosen(selector: Selector) -> ColumnElement[bool]:
    """Say whether a device with access that stays is selected."""
    stays = (device.c.revoked.is_(None), device.c.retiring.is_(None))
    return and_(true(), *stays, *(_holds(each) for each in selector.requirements))


def _holds(requirement: Requirement) -> Any:  # noqa: ANN401 - a condition
    """Say the same of labels as `Requirement.holds`."""
    value = device.c.labels[requirement.key].as_string()
    match requirement.operator:
        case Operator.IN:
            return value.in_(sorted(requirement.values))
        case Operator.NOT_IN:
            return or_(value.is_(None), value.not_in(sorted(requirement.values)))
        case Operator.EXISTS:
            return value.is_not(None)
        case Operator.MISSING:
            return value.is_(None)
