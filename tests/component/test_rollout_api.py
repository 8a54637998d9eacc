"""Rollouts over the real application: start, check, look, and a person's verbs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from control_plane.api.auth import Role
from firmware_bundles.manifest import Needs
from support.control_planes import code
from support.http import AppTransport
from support.rollout_service import RolloutService

FILE = """\
family: digits
release: "2"
cohort: all
phases:
  - {share: 0.25, soak_s: 5}
  - {share: 1.0, soak_s: 5}
"""
ROLLOUTS = "/api/v1/rollouts"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RolloutService]:
    """Eight devices that serve version 1."""
    made = RolloutService(tmp_path)
    yield made
    made.fleet.database.close()


def client(service: RolloutService, role: Role = Role.OPERATOR) -> httpx.Client:
    """Return a client of this role."""
    return httpx.Client(
        transport=AppTransport(service.app),
        base_url="http://127.0.0.1:8080",
        headers={"Authorization": f"Bearer {service.token(role)}"},
    )


def start(service: RolloutService, text: str = FILE) -> dict[str, Any]:
    """Start a rollout; return what the API says of it."""
    answer = client(service).post(ROLLOUTS, content=text.encode())
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_a_rollout_is_started_and_shown(service: RolloutService) -> None:
    """The answer has phases with counts, gates, reasons and decisions, and goes on to have them."""
    created = start(service)
    assert created["id"].startswith("digits-2-")
    assert [(each["first"], each["end"]) for each in created["phases"]] == [(0, 2), (2, 8)]
    service.step()
    shown = client(service, Role.VIEWER).get(f"{ROLLOUTS}/{created['id']}").json()
    assert shown["phases"][0]["counts"]["committed"] == 2
    assert shown["phases"][1]["state"] == "pending"
    assert shown["gates"][0]["verdict"] == "pass"
    assert shown["why"][0].startswith("phase 1 of 2: ended are 2 of 2 devices")
    assert [each["why"][0] for each in shown["decisions"]] == [
        "created by operator",
        "phase 1 of 2 begins: 2 devices to offer to",
    ]


def test_an_ended_rollout_keeps_its_last_words(service: RolloutService) -> None:
    """After the end the reasons and gates are those of the last decision."""
    rollout_id = start(service)["id"]
    for _ in range(8):
        service.step(5)
    shown = client(service).get(f"{ROLLOUTS}/{rollout_id}").json()
    assert shown["state"] == "completed"
    assert shown["why"][-1] == "completed: by signed report, 8 devices on digits/2/manifest.json"
    assert shown["gates"][0]["verdict"] == "pass"
    listed = client(service).get(ROLLOUTS).json()
    assert [(each["id"], each["state"]) for each in listed] == [(rollout_id, "completed")]


def test_devices_are_listed_in_the_order_of_offers(service: RolloutService) -> None:
    """Each device of the rollout has a place and a status of its own."""
    rollout_id = start(service)["id"]
    service.step(state="failed")
    page = client(service, Role.VIEWER).get(f"{ROLLOUTS}/{rollout_id}/devices").json()
    assert [row["position"] for row in page["devices"]] == list(range(8))
    assert [row["status"] for row in page["devices"]] == ["failed"] * 2 + ["planned"] * 6
    assert page["next"] is None


@pytest.mark.parametrize("limit", [1, 3, 4, 8, 9])
def test_devices_are_listed_page_by_page(service: RolloutService, limit: int) -> None:
    """Pages follow each other without a gap or a repetition, none larger than asked for."""
    path = f"{ROLLOUTS}/{start(service)['id']}/devices"
    after: int | None = -1
    seen: list[int] = []
    while after is not None:
        page = client(service).get(path, params={"after": after, "limit": limit}).json()
        assert len(page["devices"]) <= limit
        seen += [row["position"] for row in page["devices"]]
        after = page["next"]
    assert seen == list(range(8))


def test_a_page_of_a_rollout_has_its_limits(service: RolloutService) -> None:
    """Who asks for more than a page at once is refused."""
    path = f"{ROLLOUTS}/{start(service)['id']}/devices"
    asked = ["limit=0", "limit=1001", "after=-2", "after=2147483648", "after=x"]
    assert {client(service).get(f"{path}?{each}").status_code for each in asked} == {422}


def test_checking_stores_nothing(service: RolloutService) -> None:
    """A check says how far each phase would reach, to a viewer too."""
    checked = client(service, Role.VIEWER).post(f"{ROLLOUTS}/check", content=FILE.encode())
    assert checked.json()["phase_ends"] == [2, 8]
    assert client(service).get(ROLLOUTS).json() == []


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        ("cohort: all", "cohrot: all", "line 3: cohrot: there is no such field"),
        ("cohort: all", "cohort: else", "there is no cohort 'else'"),
        ("cohort: all", "cohort: nobody", "cohort: no device belongs to nobody"),
        ('"2"', '"9"', "there is no release 'digits/9/manifest.json'"),
        ('"2"', '"3"', "release: the owners withdrew digits/3/manifest.json"),
        ("share: 0.25", "share: 2", "line 5: phases[0].share: expected float <= 1.0"),
    ],
)
def test_a_broken_file_is_told_in_one_line(
    service: RolloutService, before: str, after: str, detail: str
) -> None:
    """What cannot start is refused with the sentence that says why, checked or started."""
    for path in (ROLLOUTS, f"{ROLLOUTS}/check"):
        answer = client(service).post(path, content=FILE.replace(before, after).encode())
        assert (answer.status_code, code(answer)) == (422, "input.rollout_invalid")
        assert answer.json()["detail"] == detail


def test_a_huge_file_is_not_read(service: RolloutService) -> None:
    """The size is limited before anything is parsed."""
    answer = client(service).post(ROLLOUTS, content=b"#" * 70_000)
    assert code(answer) == "input.rollout_invalid"


def test_verbs_change_the_state_and_say_who(service: RolloutService) -> None:
    """A person's decision is stored like the planner's, with the name."""
    rollout_id = start(service)["id"]
    operator = client(service)
    states = []
    for verb in ("pause", "resume", "rollback"):
        answer = operator.post(f"{ROLLOUTS}/{rollout_id}/{verb}")
        states.append(answer.json()["state"])
    assert states == ["paused", "running", "rolling_back"]
    shown = operator.get(f"{ROLLOUTS}/{rollout_id}").json()
    assert shown["decisions"][1]["why"] == ["paused by operator"]
    service.step()
    refused = operator.post(f"{ROLLOUTS}/{rollout_id}/pause")
    assert (refused.status_code, code(refused)) == (409, "conflict")


def test_who_may_not_is_refused(service: RolloutService) -> None:
    """Viewers look, operators act, and nobody does either without a token."""
    viewer = client(service, Role.VIEWER)
    assert viewer.post(ROLLOUTS, content=FILE.encode()).status_code == 403
    assert viewer.post(f"{ROLLOUTS}/x/abort").status_code == 403
    assert (
        httpx.Client(transport=AppTransport(service.app), base_url="http://127.0.0.1")
        .get(ROLLOUTS)
        .status_code
        == 401
    )
    assert code(viewer.get(f"{ROLLOUTS}/x")) == "input.not_found"


def test_the_api_is_described(service: RolloutService) -> None:
    """OpenAPI knows the routes, their answers, and that files may be YAML."""
    paths = client(service).get("/api/v1/openapi.json").json()["paths"]
    assert "application/yaml" in paths[ROLLOUTS]["post"]["requestBody"]["content"]
    assert {f"{ROLLOUTS}/{{rollout_id}}/{verb}" for verb in ("pause", "abort")} <= set(paths)


@pytest.mark.parametrize("path", [ROLLOUTS, f"{ROLLOUTS}/check"])
def test_devices_that_cannot_run_a_model_are_left_out(service: RolloutService, path: str) -> None:
    """Before any byte moves, they are counted with what they lack; others are no matter."""
    one, two, *others = service.fleet.devices
    service.needs = Needs(memory_bytes=3_000)
    service.report_facts(one, memory_bytes=2_000, runtime="tflite-runtime 2.14.0")
    service.report_facts(two, kernel="6.1")
    for each in others:
        service.report_facts(each, memory_bytes=4_000)
    answer = client(service).post(path, content=FILE.encode()).json()
    (told,) = answer.get("left_out") or answer["decisions"][0]["why"][1:]
    assert told.startswith(f"left out 1 device ({one}): cannot run it: it needs 3000 bytes")
    assert answer["members"] == 7
    assert all(
        one not in {row.device_id for row in service.rollouts.deployments(each)}
        for each in service.rollouts.all()
    )


def test_a_model_that_no_device_can_run_is_not_rolled_out(service: RolloutService) -> None:
    """Nothing starts for nobody; the sentence counts the devices, names some, and says why."""
    service.needs = Needs(memory_bytes=2**40)
    for each in service.fleet.devices:
        service.report_facts(each, memory_bytes=2**30)
    answer = client(service).post(ROLLOUTS, content=FILE.encode())
    assert (answer.status_code, code(answer)) == (422, "input.rollout_invalid")
    detail = answer.json()["detail"]
    assert detail.startswith(
        "cohort: of all no device is left for digits/2: left out 8 devices (device-000, ...): "
    )
    assert "cannot run it: it needs 1099511627776 bytes of memory" in detail
    assert service.rollouts.all() == []


def test_excluded_devices_are_left_out(service: RolloutService) -> None:
    """By id, by cohort and by selector, each counted once."""
    one, two, *_ = service.fleet.devices
    service.report_facts(two, site="berlin")
    exclude = f"exclude: {{devices: [{one}], selector: fact/site=berlin, cohorts: [nobody]}}\n"
    checked = client(service).post(f"{ROLLOUTS}/check", content=(FILE + exclude).encode()).json()
    assert checked["members"] == 6
    assert checked["left_out"] == ["left out 2 devices: the rollout file excludes them"]


def test_what_is_doubtful_is_said_and_refused_where_somebody_is_strict(
    service: RolloutService,
) -> None:
    """A check lists notes with field and severity; a strict start refuses the first warning."""
    notes = client(service).post(f"{ROLLOUTS}/check", content=FILE.encode()).json()["notes"]
    warning = {"code": "gate.answers_unwatched", "severity": "warning"}
    sentence = "only installs are judged"
    assert {**warning, "field": "phases[0].gates", "sentence": sentence} in notes
    refused = client(service).post(f"{ROLLOUTS}?strict=true", content=FILE.encode())
    assert (refused.status_code, code(refused)) == (422, "input.rollout_doubtful")
    assert f"({notes[0]['code']}), and" in refused.json()["detail"]
    assert service.rollouts.all() == []
    started = client(service).post(ROLLOUTS, content=FILE.encode()).json()
    assert started["notes"] == notes
