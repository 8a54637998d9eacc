"""Who may do what at the API: tokens, roles, sessions, and what everybody is refused."""

from __future__ import annotations

import pytest

from control_plane.api.app import BODY_BYTES_MAX
from control_plane.api.auth import SESSION_COOKIE, SESSION_S, Role
from support.control_planes import ControlPlane, code

Call = tuple[str, str, dict[str, str] | None]
INVITE: Call = ("POST", "/api/v1/enrolment-tokens", {})
LIST: Call = ("GET", "/api/v1/devices", None)
TOKENS: Call = ("GET", "/api/v1/tokens", None)


@pytest.mark.parametrize(
    ("role", "request_", "status"),
    [
        (Role.VIEWER, LIST, 200),
        (Role.VIEWER, INVITE, 403),
        (Role.VIEWER, TOKENS, 403),
        (Role.OPERATOR, INVITE, 201),
        (Role.OPERATOR, TOKENS, 403),
        (Role.APPROVER, INVITE, 201),
        (Role.ADMIN, TOKENS, 200),
        (Role.ADMIN, LIST, 200),
    ],
)
def test_each_role_may_what_the_ones_before_may(
    control_plane: ControlPlane,
    role: Role,
    request_: Call,
    status: int,
) -> None:
    """A role that is too low is refused, a higher one includes the lower."""
    method, path, body = request_
    answer = control_plane.client(role).request(method, path, json=body)
    assert answer.status_code == status
    if status == 403:
        assert code(answer) == "access.role_insufficient"


def test_nobody_gets_in_without_a_token(control_plane: ControlPlane) -> None:
    """Without a token, or with a wrong one, there is a 401 that says how to ask."""
    browser = control_plane.browser()
    for headers in ({}, {"Authorization": "Bearer shoal_x_y"}, {"Authorization": "Basic eA=="}):
        answer = browser.get("/api/v1/devices", headers=headers)
        assert (answer.status_code, code(answer)) == (401, "access.not_authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_pulse_needs_no_token(control_plane: ControlPlane) -> None:
    """Whether the process answers is told to everybody."""
    assert control_plane.browser().get("/healthz").json() == {"status": "ok"}


def test_a_withdrawn_token_ends_its_sessions(control_plane: ControlPlane) -> None:
    """Deleting a token shuts out its holder, and the sessions opened with it."""
    text = control_plane.token(Role.VIEWER)
    browser = control_plane.browser()
    browser.cookies.set(SESSION_COOKIE, control_plane.access.open_session(text))
    assert browser.get("/api/v1/devices").status_code == 200
    prefix = text.rpartition("_")[0]
    admin = control_plane.client(Role.ADMIN)
    assert admin.delete(f"/api/v1/tokens/{prefix}").status_code == 200
    assert browser.get("/api/v1/devices").status_code == 401
    assert code(admin.delete(f"/api/v1/tokens/{prefix}")) == "input.not_found"


def test_a_session_ends(control_plane: ControlPlane) -> None:
    """A session is over after its time, and one with a changed byte never was."""
    cookie = control_plane.access.open_session(control_plane.token(Role.VIEWER))
    browser = control_plane.browser()
    browser.cookies.set(SESSION_COOKIE, cookie[:-1] + ("0" if cookie[-1] != "0" else "1"))
    assert browser.get("/api/v1/devices").status_code == 401
    browser.cookies.set(SESSION_COOKIE, cookie)
    control_plane.clock.now += SESSION_S + 1
    assert browser.get("/api/v1/devices").status_code == 401


def test_another_site_cannot_act_with_a_session(control_plane: ControlPlane) -> None:
    """A change with a cookie is refused if the browser says that another page sent it."""
    browser = control_plane.browser()
    session = control_plane.access.open_session(control_plane.token(Role.OPERATOR))
    browser.cookies.set(SESSION_COOKIE, session)
    body = {"name": "all"}
    foreign = browser.post("/api/v1/cohorts", json=body, headers={"Origin": "https://evil.example"})
    assert code(foreign) == "access.not_authenticated"
    own = browser.post("/api/v1/cohorts", json=body, headers={"Origin": "http://127.0.0.1:8080"})
    assert own.status_code == 201


def test_a_token_is_told_once(control_plane: ControlPlane) -> None:
    """A new token works; neither its text nor its digest is in the list."""
    admin = control_plane.client(Role.ADMIN)
    made = admin.post("/api/v1/tokens", json={"name": "ci", "role": "operator"}).json()
    listed = admin.get("/api/v1/tokens").text
    assert made["prefix"] in listed
    assert made["token"] not in listed
    assert "digest" not in listed
    caller = control_plane.access.check_token(made["token"])
    assert (caller.name, caller.role, caller.prefix) == ("ci", Role.OPERATOR, made["prefix"])


def test_large_bodies_are_refused(control_plane: ControlPlane) -> None:
    """A body above the limit gets a 413 before anybody reads it."""
    answer = control_plane.browser().post("/api/v1/enrol", content=bytes(BODY_BYTES_MAX + 1))
    assert (answer.status_code, code(answer)) == (413, "wire.too_large")


def test_mistakes_are_told_as_problems(control_plane: ControlPlane) -> None:
    """A wrong path, method or field is told with a code and its place."""
    admin = control_plane.client(Role.ADMIN)
    assert code(admin.get("/api/v1/nothing")) == "input.not_found"
    assert code(admin.put("/api/v1/devices")) == "input.method_not_allowed"
    wrong = admin.post("/api/v1/tokens", json={"name": "x", "role": "king"})
    assert (wrong.status_code, code(wrong)) == (422, "input.invalid")
    assert "body.role" in wrong.json()["detail"]


def test_the_api_describes_itself(control_plane: ControlPlane) -> None:
    """The OpenAPI document names every route with its security."""
    found = control_plane.browser().get("/api/v1/openapi.json").json()
    assert found["openapi"].startswith("3.")
    assert {"/healthz", "/api/v1/enrol", "/api/v1/devices/{device_id}"} <= set(found["paths"])
    assert found["paths"]["/api/v1/devices"]["get"]["security"]
    body = found["paths"]["/api/v1/enrol"]["post"]["requestBody"]["content"]["application/json"]
    assert "csr" in body["schema"]["properties"]
