"""Conditions on their way: rollout file, order, device, signed report, `shoal device show`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import insert, update

from agent.deployment import conditions
from agent.reports import family_report
from control_plane.api.auth import Role
from control_plane.cli import main as command
from control_plane.fleet.selectors import Selector
from control_plane.rollouts.executor import Executor
from control_plane.store import schema
from control_plane.store.rollouts import Rollouts
from firmware_bundles.trust import envelopes
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.messages import (
    Assignment,
    BufferFacts,
    Conditions,
    DeploymentState,
    FamilyReport,
    Hello,
    Report,
)
from support.control_planes import ControlPlane, Member
from support.deployments import FAMILY, V1, Device
from support.http_server import serving
from support.rollout_fleet import rollout

SPEC = f"""
family: {FAMILY}
release: v1
cohort: all
phases: [{{share: 1.0, soak_s: 0}}]
probation_s: 0.05
policy:
  conditions:
    window: "22:00-05:00"
    is_mains_needed: true
    model_bytes_per_day_max: 50000000
"""
WAITS = "the maintenance window 22:00-05:00; mains power"
NOON_ON_BATTERY = conditions.Facts(
    weekday=0,
    minute=12 * 60,
    is_time_known=True,
    link="eth0",
    is_metered=False,
    received_bytes=0,
    received_metered_bytes=0,
    written_bytes=0,
    battery_percent=80.0,
    is_on_mains=False,
)
NIGHT_ON_MAINS = NOON_ON_BATTERY._replace(minute=23 * 60, is_on_mains=True)


def ordered(control_plane: ControlPlane, member: Member) -> Assignment:
    """Start the rollout, and return what the device is told when it says hello."""
    release = {
        "path": V1.model.path,
        "family": FAMILY,
        "version": "v1",
        "number": 1,
        "digest": V1.digest,
        "length": V1.model.length,
        "manifest": V1.manifest,
        "published": 0.0,
    }
    online = update(schema.device).values(is_online=True)
    with control_plane.database.transaction() as connection:
        connection.execute(insert(schema.release).values(release))
        connection.execute(online)
    rollouts = Rollouts(control_plane.database)
    wanted = msgspec.structs.replace(rollout(SPEC), created=control_plane.clock())
    rollouts.create(wanted, Selector())
    Executor(rollouts, lambda _devices: None, control_plane.clock).tick()
    hello = Hello(
        nonce="0" * 32,
        incarnation="0" * 16,
        agent_version="1.0",
        generations={},
        inventory_digest="a" * 64,
    )
    control_plane.assignments.handle(member.id, codec.encode(hello))
    topic, payload = control_plane.sent.messages[-1]
    assert topic == topics.down(member.id, topics.Down.ASSIGNMENT)
    return envelopes.open_envelope(Assignment, payload, [control_plane.director.public_key])


def report(member: Member, family: FamilyReport) -> bytes:
    """Return the signed report of a device about one family."""
    said = Report(
        device=member.id,
        incarnation="0" * 16,
        counter=1,
        time=1.0,
        agent_version="1.0",
        families=(family,),
        inventory={},
        buffer=BufferFacts(),
    )
    return envelopes.sign(said, member.signer)


async def waiting(folder: Path, assignment: Assignment) -> FamilyReport:
    """Give the order to a device at noon on battery; return its report, then let it go on."""
    device, facts = Device(folder), NOON_ON_BATTERY

    def judge(wanted: Conditions, lacking: int, is_urgent: bool) -> conditions.Permission:  # noqa: FBT001
        return conditions.judge((Conditions(), wanted), facts, lacking, is_urgent=is_urgent)

    device.judge = judge
    device.start()
    device.updater.offer(assignment)
    await device.waits()
    said = family_report(FAMILY, device.updater.records[FAMILY], None)
    assert device.line.sent == 0
    facts = NIGHT_ON_MAINS
    record = await device.ended(assignment.orders[0].generation)
    assert (record.state, record.waits_for) == (DeploymentState.COMMITTED, None)
    return said


def test_conditions_of_a_rollout_hold_its_update_up_and_the_fleet_sees_why(
    control_plane: ControlPlane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As they stand in the file; the update goes on by itself once they hold."""
    member = control_plane.enrol("press-1")
    assignment = ordered(control_plane, member)
    folder = tmp_path / "device"
    folder.mkdir()
    said = asyncio.run(waiting(folder, assignment))
    assert said.waits_for == WAITS
    control_plane.reports.handle(member.id, report(member, said))
    with serving(control_plane.app) as address:
        monkeypatch.setenv("SHOAL_SERVER", address)
        monkeypatch.setenv("SHOAL_TOKEN", control_plane.token(Role.VIEWER))
        with pytest.raises(SystemExit) as ended:
            command.main(["device", "show", member.id])
    assert ended.value.code in {0, None}
    assert f"{FAMILY} waits for {WAITS}" in capsys.readouterr().out
