"""Cohorts of what devices report, and as lists; rollouts that leave devices out or share them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.fleet import labels, selectors
from control_plane.fleet.selectors import Listed, OfKinds, Selector, Without
from control_plane.rollouts.model import RolloutState
from control_plane.rollouts.selection import choose
from control_plane.store import rollout_members
from control_plane.store.schema import device
from firmware_bundles.errors import ConflictError, InputError, NotFound, RolloutInvalid
from firmware_bundles.manifest import Needs
from firmware_bundles.wire.messages import Arm, DeploymentState, FamilyReport, Report, Serving
from support.cohort_world import PHASES, World, spec
from support.control_planes import ControlPlane, code
from support.device_order import arrange
from support.http_server import serving
from support.rollout_fleet import rollout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A fleet of twelve."""
    made = World(tmp_path)
    yield made
    made.fleet.database.close()


@pytest.mark.parametrize(
    ("selector", "count"),
    [
        ("fact/arch=aarch64", 4),
        ("fact/arch!=aarch64", 8),
        ("fact/memory_bytes>10000", 2),
        ("fact/memory_bytes<3000", 2),
        ("fact/arch>5", 0),
        ("fact/runtime=ai-edge-litert-2.3.0,fact/arch in (aarch64,arm)", 4),
        ("!fact/missing", 12),
    ],
)
def test_cohorts_name_what_devices_report(world: World, selector: str, count: int) -> None:
    """A fact of the inventory is selected like a label, numbers by their size."""
    assert world.cohorts.count(selectors.parse(selector)) == count


def test_what_a_device_serves_is_selected_from_its_next_report(world: World) -> None:
    """A signed report changes who matches; nobody can say it in its place by a label."""
    serving_now = Serving(
        version="2", digest="0" * 64, runtime="r", delegate="edge tpu", since=0.0, answered=0
    )
    family = FamilyReport(
        family="digits",
        generation=1,
        state=DeploymentState.COMMITTED,
        serving=serving_now,
        arm=Arm.CANDIDATE,
    )
    report = Report(
        device="d01",
        incarnation="a" * 16,
        counter=1,
        time=0.0,
        agent_version="1",
        families=(family,),
        inventory={"arch": "x86_64"},
    )
    world.devices.accept_reports([report], world.now)
    assert world.cohorts.preview(selectors.parse("serves/digits=2")).examples == ("d01",)
    assert world.cohorts.count(selectors.parse("delegate/digits=edge-tpu")) == 1
    assert [each["arm"] for each in world.devices.reported("d01")] == ["candidate"]
    with pytest.raises(InputError, match="reported by the device"):
        labels.check({"serves/digits": "2"})


def test_a_list_takes_exactly_its_devices(world: World) -> None:
    """Those that are enrolled; it is no selector, and a selector is no list."""
    made = world.cohorts.create("lab", "", listed=["d03", "d01", "d01", "ghost"])
    assert (made.listed, made.devices) == (("d01", "d03", "ghost"), 2)
    assert world.cohorts.members("lab") == ["d01", "d03"]
    with pytest.raises(InputError, match="not both"):
        world.cohorts.create("both", "a=b", listed=["d01"])


def test_a_cohort_is_given_another_meaning_or_forgotten(world: World) -> None:
    """The same again changes nothing; a cohort that an open rollout goes by is kept."""
    world.cohorts.put("arm", "fact/arch=aarch64")
    world.cohorts.put("arm", "fact/arch=aarch64")
    assert world.cohorts.put("arm", "fact/arch=x86_64").devices == 8
    assert world.cohorts.put("arm", "", listed=["d01"]).selector == ""
    world.cohorts.delete("arm")
    with pytest.raises(NotFound):
        world.cohorts.get("arm")
    world.start()
    with pytest.raises(ConflictError, match="goes by the cohort all"):
        world.cohorts.delete("all")


def test_conditions_without_syntax_select_in_sql(world: World) -> None:
    """Lists, exclusions and kinds are the same devices as one by one."""
    listed = Selector((Listed(frozenset({"d00", "d03", "d05"})),))
    assert world.devices.members(listed) == ["d00", "d03", "d05"]
    arm = selectors.parse("fact/arch=aarch64")
    assert world.devices.members(listed.where(Without(arm))) == ["d05"]
    strangers = listed.where(Without(selectors.parse("missing=1")))
    assert world.devices.members(strangers) == ["d00", "d03", "d05"]
    kinds = OfKinds(("arch", "memory_bytes"), frozenset({("aarch64", "1000"), ("x86_64", "6000")}))
    assert world.devices.members(listed.where(kinds)) == ["d00", "d05"]


def test_devices_that_cannot_run_a_release_are_counted(world: World) -> None:
    """They are left out before any byte moves, and `why` says how many and for want of what."""
    world.start(needs=Needs(memory_bytes=3_000))
    assert sorted(world.order()) == [f"d{number:02}" for number in range(2, 12)]
    (first, *_) = world.rollouts.decisions("example")
    assert first.why[1:] == [
        "left out 1 device (d00): cannot run it: it needs 3000 bytes of memory; there are 1000",
        "left out 1 device (d01): cannot run it: it needs 3000 bytes of memory; there are 2000",
    ]


def test_devices_without_accelerator_or_too_slow_are_counted(world: World) -> None:
    """What is told counts before any byte moves; a device that tells nothing is left in."""
    world.start(needs=Needs(accelerator="edgetpu", speed_class_min=10))
    assert sorted(world.order()) == [
        f"d{number:02}" for number in range(12) if number not in (3, 4)
    ]
    (first, *_) = world.rollouts.decisions("example")
    accelerator = "it needs the accelerator edgetpu; configured: none"
    speed = "it needs speed class 10 or higher; 9 was measured"
    assert first.why[1:] == [
        f"left out 1 device (d04): cannot run it: {speed}",
        f"left out 1 device (d03): cannot run it: {accelerator}; {speed}",
    ]


def test_excluded_devices_are_counted(world: World) -> None:
    """By id, by cohort and by selector, each once."""
    world.cohorts.create("lab", "", listed=["d01", "d02"])
    exclude = "exclude: {devices: [d01, d04], cohorts: [lab], selector: fact/arch=aarch64}"
    world.start(exclude)
    assert sorted(world.order()) == ["d05", "d07", "d08", "d10", "d11"]
    (first, *_) = world.rollouts.decisions("example")
    assert first.why[1] == "left out 7 devices: the rollout file excludes them"


def test_phases_reach_kinds_evenly(world: World) -> None:
    """The order is that of the plain rule, stratum by stratum."""
    world.start()
    strata = {f"d{n:02}": "aarch64," if n % 3 == 0 else "x86_64," for n in range(12)}
    assert world.order() == arrange("example", strata, strata)
    first = [strata[each] for each in world.order()[:6]]
    assert 1 <= first.count("aarch64,") <= 3


def test_rare_kinds_are_one_stratum(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values there are, few kinds are told apart; the plain rule orders them."""
    monkeypatch.setattr(rollout_members, "_STRATA_MAX", 2)
    world.start("stratify_by: [fact/arch, fact/memory_bytes]")
    strata = {f"d{n:02}": "" for n in range(12)}
    strata |= {"d00": "aarch64,1000,", "d09": "aarch64,10000,"}
    assert world.order() == arrange("example", strata, strata)


def test_of_two_rollouts_the_higher_priority_has_a_device(world: World) -> None:
    """It takes those that the other did not offer to yet; both say so, and both can end."""
    world.start(rollout_id="low")
    world.run()
    world.cohorts.create("arm", "fact/arch=aarch64")
    reached = set(world.order("low")[:6])
    arm = {f"d{n:02}" for n in range(0, 12, 3)}
    text = spec("priority: 5").replace("cohort: all", "cohort: arm").replace("'2'", "'3'")
    high = rollout(text, "high")
    chosen = choose(high.spec, Needs(), world.cohorts)
    world.rollouts.create(high, chosen.members)
    lost = arm - reached
    assert world.rollouts.decisions("high")[0].why[1:] == [
        f"taken from rollout low, which has priority 0: {len(lost)} without an offer yet"
    ]
    assert world.rollouts.decisions("low")[-1].why == [
        f"lost to rollout high, which has priority 5 over 0: {len(lost)} without an offer yet"
    ]
    for _ in range(8):
        world.run()
    assert world.rollouts.get("high").standing.state is RolloutState.COMPLETED
    assert world.fleet.offered("3") == arm
    statuses = {
        row.device_id: row.status for row in world.rollouts.deployments(world.rollouts.get("low"))
    }
    assert {each for each, status in statuses.items() if status == "superseded"} >= lost
    assert world.rollouts.get("low").standing.state is RolloutState.COMPLETED


def test_a_lower_priority_leaves_devices_to_who_has_them(world: World) -> None:
    """It starts without them and says why, or not at all where nobody is left."""
    world.cohorts.create("arm", "fact/arch=aarch64")
    high = rollout(spec("priority: 5").replace("cohort: all", "cohort: arm"), "high")
    world.rollouts.create(high, choose(high.spec, Needs(), world.cohorts).members)
    world.start("priority: 1", "low")
    assert len(world.order("low")) == 8
    assert world.rollouts.decisions("low")[0].why[1:] == [
        "left out 4 devices: rollout high has them, its priority 5 is above 1"
    ]
    nobody = rollout(spec().replace("cohort: all", "cohort: arm"), "nobody")
    with pytest.raises(RolloutInvalid, match="no device is left: left out 4 devices: rollout high"):
        world.rollouts.create(nobody, world.cohorts.selector("arm"))


def test_between_equals_the_later_rollout_is_refused(world: World) -> None:
    """Nobody said which one matters more."""
    world.start()
    with pytest.raises(ConflictError, match="part of the open rollout example"):
        world.start(rollout_id="second")


@pytest.fixture
def served(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[ControlPlane]:
    """A running control plane with three devices."""
    for name in ("press-1", "press-2", "press-3"):
        control_plane.enrol(name)
    monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.OPERATOR))
    with serving(control_plane.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        yield control_plane


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(["cohort", *arguments])
    return int(ended.value.code or 0)


def test_the_command_previews_lists_and_deletes(
    served: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    """A selector is tried before it is named; a list is shortened where it is shown."""
    served.devices.set_labels("press-2", {"site": "berlin"}, 0.0)
    assert run("preview", "site=berlin", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out) == {"devices": 1, "examples": ["press-2"]}
    assert run("create", "lab", "--device", "press-1", "--device", "press-3") == 0
    assert "press-1, press-3" in capsys.readouterr().out
    assert run("show", "lab", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 2
    assert run("delete", "lab") == 0
    assert run("show", "lab") == 2
    operator = served.client(Role.OPERATOR)
    listed = operator.get("/api/v1/devices", params={"labels": "site=berlin"}).json()["devices"]
    assert [each["id"] for each in listed] == ["press-2"]
    put = operator.put("/api/v1/cohorts/lab", json={"listed": ["press-1"]})
    assert put.json()["devices"] == 1
    assert code(operator.put("/api/v1/cohorts/x y", json={})) == "wire.malformed"
    devices = operator.get("/api/v1/devices", params={"cohort": "lab"}).json()["devices"]
    assert [each["id"] for each in devices] == ["press-1"]


def test_controls_count_only_where_they_could_have_had_the_offer(world: World) -> None:
    """A device that was not seen since the phase's first offer is no control; one that was, is."""
    world.start()
    world.now += 10.0
    world.executor.tick()
    world.fleet.obey()
    found = world.rollouts.get("example")
    assert world.rollouts.view(found).control_devices == 6
    late = world.order()[6:]
    with world.fleet.database.transaction() as connection:
        away = update(device).where(device.c.id.in_(late)).values(is_online=False, last_seen=1.0)
        connection.execute(away)
        seen = update(device).where(device.c.id == late[0]).values(last_seen=world.now)
        connection.execute(seen)
    assert world.rollouts.view(found).control_devices == 1


def test_controls_that_are_away_are_not_taken_for_none(world: World) -> None:
    """Where no device without the offer was seen, the gates know that there are some."""
    world.start()
    world.now += 10.0
    world.executor.tick()
    world.fleet.obey()
    found = world.rollouts.get("example")
    with world.fleet.database.transaction() as connection:
        connection.execute(update(device).values(is_online=False, last_seen=1.0))
    view = world.rollouts.view(found)
    assert (view.control_devices, view.is_control_away) == (0, True)


def test_devices_lost_to_another_rollout_do_not_hasten_the_waves(world: World) -> None:
    """Each wave is as large as the file says, however many devices went elsewhere before."""
    waves = "phases: [{share: 1.0, soak_s: 0, rate: {devices: 2, per_s: 60}}]"
    for text, name in ((spec().replace(PHASES, waves), "low"), (spec("priority: 5"), "high")):
        wanted = rollout(text.replace("cohort: all", f"cohort: {name}"), name)
        world.cohorts.create(name, "" if name == "low" else "fact/arch=aarch64")
        chosen = choose(wanted.spec, Needs(), world.cohorts)
        world.rollouts.create(wanted, chosen.members, left_out=chosen.left_out)
    for wave in (1, 2):
        world.run(60.0)
        world.run(1.0)
        assert len(world.offered("low")) == 2 * wave


def test_a_phase_that_reaches_nobody_new_goes_on_with_the_evidence(world: World) -> None:
    """Shares of a small fleet may come to the same devices: their labels are not forgotten."""
    phases = "phases: [{count: 6, soak_s: 0}, {share: 0.5, soak_s: 0}, {share: 1.0, soak_s: 0}]"
    gates = "gates: {label_errors: {margin: 0.1, labels_min: 10}}"
    wanted = rollout(spec(gates).replace(PHASES, phases))
    world.rollouts.create(wanted, choose(wanted.spec, Needs(), world.cohorts).members)
    world.run()
    order = world.order()
    for place, device_id in enumerate(order):
        version = "2" if place < 6 else "1"
        world.fleet.label(device_id, version, labelled=20, wrong=1, at=world.now + 1.0)
    for _ in range(4):
        world.run()
    assert world.rollouts.get("example").standing.phase == 2
