"""Devices and cohorts over the real application."""

from __future__ import annotations

import pytest

from control_plane.api.auth import Role
from support.control_planes import ControlPlane, code


@pytest.fixture
def fleet(control_plane: ControlPlane) -> ControlPlane:
    """Give a control plane with five devices at two sites."""
    for number in range(5):
        name = f"press-{number}"
        control_plane.enrol(name)
        site = "berlin" if number % 2 else "paris"
        control_plane.devices.set_labels(name, {"site": site}, 0.0)
    return control_plane


def test_pages_follow_each_other(fleet: ControlPlane) -> None:
    """All devices come once, in order, page by page."""
    viewer = fleet.client(Role.VIEWER)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = viewer.get("/api/v1/devices", params={"after": after, "limit": 2}).json()
        found += [device["id"] for device in page["devices"]]
        after = page["next"]
    assert found == [f"press-{number}" for number in range(5)]


def test_a_selector_or_a_cohort_narrows_the_list(fleet: ControlPlane) -> None:
    """Devices are listed by labels, by cohort, or by both together."""
    operator = fleet.client(Role.OPERATOR)
    operator.post("/api/v1/cohorts", json={"name": "b", "selector": "site=berlin"})

    def listed(**params: str) -> list[str]:
        page = operator.get("/api/v1/devices", params=params).json()
        return [device["id"] for device in page["devices"]]

    assert listed(labels="site!=berlin") == ["press-0", "press-2", "press-4"]
    assert listed(cohort="b") == ["press-1", "press-3"]
    assert listed(cohort="b", labels="site=paris") == []
    assert code(operator.get("/api/v1/devices", params={"cohort": "x"})) == "input.not_found"


def test_a_broken_selector_is_told_with_its_column(fleet: ControlPlane) -> None:
    """A mistake in a selector comes back as a problem that names the column."""
    answer = fleet.client(Role.VIEWER).get("/api/v1/devices", params={"labels": "site=berlin,,"})
    assert (answer.status_code, code(answer)) == (422, "input.selector_invalid")
    assert "column 13" in answer.json()["detail"]


def test_labels_are_set_and_removed(fleet: ControlPlane) -> None:
    """A change sets some labels, removes those given as null, and keeps the others."""
    operator = fleet.client(Role.OPERATOR)
    changed = operator.patch(
        "/api/v1/devices/press-1", json={"labels": {"site": None, "line": "a"}}
    )
    assert changed.json() == {"labels": {"line": "a"}}
    refused = operator.patch("/api/v1/devices/press-1", json={"labels": {"a b": "c"}})
    assert code(refused) == "input.invalid"
    missing = operator.patch("/api/v1/devices/nobody", json={"labels": {}})
    assert code(missing) == "input.not_found"


def test_a_cohort_counts_who_belongs_to_it_now(fleet: ControlPlane) -> None:
    """The number of a cohort's devices follows the labels; the empty selector takes all."""
    operator = fleet.client(Role.OPERATOR)
    operator.post("/api/v1/cohorts", json={"name": "everywhere"})
    made = operator.post("/api/v1/cohorts", json={"name": "b", "selector": "site=berlin"})
    assert made.json()["devices"] == 2
    fleet.devices.set_labels("press-0", {"site": "berlin"}, 0.0)
    counts = {c["name"]: c["devices"] for c in operator.get("/api/v1/cohorts").json()["cohorts"]}
    assert counts == {"b": 3, "everywhere": 5}
    assert fleet.cohorts.members("b") == ["press-0", "press-1", "press-3"]


def test_a_cohorts_name_is_used_once(fleet: ControlPlane) -> None:
    """A second cohort of the same name is a conflict; a bad name or selector is refused."""
    operator = fleet.client(Role.OPERATOR)
    assert operator.post("/api/v1/cohorts", json={"name": "b"}).status_code == 201
    assert operator.post("/api/v1/cohorts", json={"name": "b"}).status_code == 409
    assert operator.post("/api/v1/cohorts", json={"name": "B !"}).status_code == 400
    broken = operator.post("/api/v1/cohorts", json={"name": "c", "selector": "("})
    assert code(broken) == "input.selector_invalid"
