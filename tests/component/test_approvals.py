"""Approvals, promotion and retries: what persons decide, who may, and what they cannot overrule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.store.audit import AuditLog
from support.control_planes import code
from support.http import AppTransport
from support.http_server import serving
from support.rollout_service import RolloutService

ROLLOUTS = "/api/v1/rollouts"
FILE = """\
id: r1
family: digits
release: "2"
cohort: all
phases: [{share: 0.25, soak_s: 1000}, {share: 1.0, soak_s: 0, approval: true}]
on_failure: pause
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RolloutService]:
    """A control plane with eight devices that exist as rows."""
    made = RolloutService(tmp_path)
    yield made
    made.fleet.database.close()


def person(service: RolloutService, role: Role, name: str | None = None) -> httpx.Client:
    """Return the client of somebody whose name is that of the role, if none is given."""
    client = httpx.Client(transport=AppTransport(service.app), base_url="http://localhost")
    client.headers["Authorization"] = f"Bearer {service.token(role, name)}"
    return client


def started(service: RolloutService, text: str = FILE, role: Role = Role.OPERATOR) -> httpx.Client:
    """Start a rollout and return the client of who did."""
    author = person(service, role)
    assert author.post(ROLLOUTS, content=text).status_code == 201
    return author


def act(client: httpx.Client, verb: str, **body: int) -> httpx.Response:
    """Let a person do something to the rollout."""
    return client.post(f"{ROLLOUTS}/r1/{verb}", json=body or None)


def awaited(service: RolloutService) -> None:
    """Let the first phase pass, so that the second waits for an approval."""
    for _ in range(4):
        service.step(600)


def test_a_phase_waits_until_somebody_else_approves(service: RolloutService) -> None:
    """Nobody gets an offer before; who approved stands in the rollout, in `why` and in the log."""
    started(service)
    awaited(service)
    approver = person(service, Role.APPROVER)
    shown = approver.get(f"{ROLLOUTS}/r1").json()
    assert (shown["phase"], shown["phase_state"]) == (1, "awaiting")
    assert shown["approvals_wanted"] == [1]
    assert len(service.fleet.offered("2")) == 2
    approved = act(approver, "approve").json()
    assert [(each["phase"], each["by"]) for each in approved["approvals"]] == [(1, "approver")]
    assert approved["approvals_wanted"] == []
    for _ in range(3):
        service.step()
    done = approver.get(f"{ROLLOUTS}/r1").json()
    assert done["state"] == "completed"
    told = [sentence for each in done["decisions"] for sentence in each["why"]]
    assert "phase 2 of 2 was approved by approver" in told
    (entry,) = AuditLog(service.fleet.database).after(0, 100, action="rollout.approved")
    assert entry.actor.startswith("token:approver:")
    assert entry.details == '{"phase":2}'


@pytest.mark.parametrize("role", [Role.APPROVER, Role.ADMIN])
def test_the_author_may_not_approve(service: RolloutService, role: Role) -> None:
    """Whatever the role: two persons have to agree. The refusal has a code of its own."""
    author = started(service, role=role)
    refused = act(author, "approve")
    assert (refused.status_code, code(refused)) == (403, "access.approval_refused")
    assert refused.json()["detail"] == f"{role.value} started rollout r1 and cannot approve it, too"
    assert author.get(f"{ROLLOUTS}/r1").json()["approvals"] == []


def test_a_second_token_does_not_make_a_second_person(service: RolloutService) -> None:
    """The author's other token is refused, however it is called; another person's is not."""
    author = person(service, Role.OPERATOR, "anna")
    assert author.post(ROLLOUTS, content=FILE).status_code == 201
    assert author.get(f"{ROLLOUTS}/r1").json()["created_by"] == "anna"
    other = person(service, Role.APPROVER, "Anna")
    assert code(act(other, "approve")) == "access.approval_refused"
    given = act(person(service, Role.APPROVER, "ben"), "approve").json()["approvals"]
    assert [each["by"] for each in given] == ["ben"]
    log = AuditLog(service.fleet.database)
    (entry,) = log.before(2**40, 10, action="rollout.approved")
    assert entry.actor.startswith("token:approver:shoal_")
    assert entry.actor.endswith(":ben")
    found = log.before(2**40, 10, actor="ben")
    assert [each.action for each in found] == ["rollout.approved"]


def test_an_operator_may_not_approve(service: RolloutService) -> None:
    """It takes the role approver."""
    started(service)
    assert code(act(person(service, Role.OPERATOR), "approve")) == "access.role_insufficient"


def test_only_what_wants_an_approval_is_approved(service: RolloutService) -> None:
    """Not twice, not a phase that asks for none, not a rollout that asks for nothing."""
    started(service)
    approver = person(service, Role.APPROVER)
    wrong = act(approver, "approve", phase=0)
    assert "phase 1 of rollout r1 wants no approval; these do: 2" in wrong.json()["detail"]
    assert act(approver, "approve", phase=1).status_code == 200
    assert act(approver, "approve").status_code == 409


def test_an_early_approval_is_kept(service: RolloutService) -> None:
    """Given before the phase is due, it lets it begin without waiting; a restart keeps it."""
    started(service)
    assert act(person(service, Role.APPROVER), "approve").status_code == 200
    awaited(service)
    assert len(service.fleet.offered("2")) == 8
    assert service.rollouts.get("r1").approvals[0].by == "approver"


def test_a_person_promotes_a_phase_that_soaks(service: RolloutService) -> None:
    """The rest of the soak is waived, and that is told; the approval after it is not."""
    author = started(service)
    assert "its phase is pending" in act(author, "promote").json()["detail"]
    service.step()
    service.step()
    promoted = act(author, "promote").json()
    assert (promoted["phase"], promoted["phase_state"]) == (1, "awaiting")
    assert promoted["decisions"][-1]["why"][0] == "promoted by operator"
    refused = act(author, "promote")
    assert (refused.status_code, code(refused)) == (409, "conflict")
    assert "waits for an approval" in refused.json()["detail"]


def test_nobody_promotes_what_fails(service: RolloutService) -> None:
    """A gate that fails is told in the refusal; the rollout stays as it is."""
    author = started(service)
    service.step(state="failed")
    service.step(state="failed")
    refused = act(author, "promote")
    assert refused.status_code == 409
    assert "2 of 2 devices failed or rolled back" in refused.json()["detail"]


def test_devices_that_failed_are_offered_to_again(service: RolloutService) -> None:
    """With a newer generation, so that they try; those that did well are left alone."""
    author = started(service, FILE.replace("share: 0.25", "share: 0.5"))
    service.step(state="failed")
    before = {each: service.fleet.wants(each) for each in service.fleet.offered("2")}
    service.step(state="failed")
    assert service.rollouts.get("r1").standing.state == "paused"
    retried = act(author, "retry").json()
    assert retried["state"] == "running"
    assert "devices that failed and get another offer: 4" in retried["decisions"][-1]["why"]
    service.step()
    service.step()
    after = {each: service.fleet.wants(each) for each in before}
    assert all(after[each]["generation"] > before[each]["generation"] for each in before)
    shown = author.get(f"{ROLLOUTS}/r1").json()
    assert shown["phases"][0]["counts"]["committed"] == 4
    assert shown["phase_state"] == "soaking"
    nothing = act(author, "retry")
    assert "no device of it failed" in nothing.json()["detail"]


def test_devices_of_earlier_phases_are_retried_too(service: RolloutService) -> None:
    """A device that failed in a phase that passed gets its offer with those of the present one."""
    text = (
        FILE.replace("approval: true", "soak_s: 5").replace("soak_s: 0, ", "").replace("1000", "0")
    )
    lenient = "gates: {installs: {failed_share_max: 0.6}}\n"
    author = started(service, text + lenient)
    service.step(state="committed")
    (bad, *_) = service.fleet.offered("2")
    service.fleet.obey([bad], state="failed")
    while service.rollouts.get("r1").standing.phase == 0:
        service.now += 1
        service.executor.tick()
    service.fleet.obey(set(service.fleet.offered("2")) - {bad})
    assert act(author, "retry").status_code == 200
    service.step()
    assert service.fleet.serving(bad) == service.fleet.wants(bad)["digest"]
    for _ in range(8):
        service.step(5)
    assert service.rollouts.get("r1").standing.state == "completed"


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(["rollout", *arguments])
    return int(ended.value.code or 0)


def test_the_command_approves_and_says_who(
    service: RolloutService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The author is refused with status 5; another one's approval is shown."""
    with serving(service.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        started(service, role=Role.ADMIN)
        monkeypatch.setenv("SHOAL_TOKEN", service.token(Role.ADMIN))
        assert run("approve", "r1") == 5
        assert "access.approval_refused" in capsys.readouterr().err
        assert run("show", "r1") == 0
        assert "approval wanted before phase 2: shoal rollout approve" in capsys.readouterr().out
        monkeypatch.setenv("SHOAL_TOKEN", service.token(Role.APPROVER))
        assert run("approve", "r1", "--phase", "2") == 0
        assert "approval  phase 2 by approver at" in capsys.readouterr().out
        assert run("retry", "r1") == 1
        assert "its phase is pending" in capsys.readouterr().err


def test_who_watches_learns_how_the_approval_is_given(
    service: RolloutService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a phase waits, the whole command stands there once, and whose it cannot be."""
    sentence = (
        "phase 2 waits for an approval, by an approver other than operator: "
        "shoal rollout approve r1 --phase 2"
    )
    with serving(service.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        started(service)
        monkeypatch.setenv("SHOAL_TOKEN", service.token(Role.OPERATOR))
        assert run("watch", "r1", "--timeout", "0") == 4
        assert "approval" not in capsys.readouterr().out
        awaited(service)
        assert run("watch", "r1", "--timeout", "0.2") == 4
        told = capsys.readouterr()
        assert told.out.splitlines().count(sentence) == 1
        assert told.err.strip().endswith(f"rollout r1 is still running; {sentence}")
        assert run("show", "r1") == 0
        assert f"  {sentence}\n" in capsys.readouterr().out
