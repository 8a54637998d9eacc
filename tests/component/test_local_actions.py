"""What somebody at the device says: marks and rollbacks, with and without a running core."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import cli, local_control, locks
from agent.children import Children
from agent.deployment import slots
from agent.deployment.retirement import Phase, Retirement
from agent.deployment.seals import Mark
from agent.identity import Broker, Identity
from agent.local_actions import LocalActions
from agent.local_control import Done, LocalControl, MarkSlot, RollBack
from agent.task_messages import Admit, Admitted, Allowed, CheckRelease
from firmware_bundles.errors import DeviceError, ReleaseWithdrawn, ShoalError, SlotBroken
from firmware_bundles.wire.messages import DeploymentState
from support import owners as signing
from support.deployments import FAMILY, V1, V2, V3, Device, deployed

S = DeploymentState


class Owners(Children):
    """The owners' last word, without TUF: the real one is in the tests of tasks."""

    def __init__(self) -> None:
        super().__init__(s_max=1.0)
        self.asked: list[str] = []
        self.withdrawn: set[str] = set()

    async def run(self, request: Any, answer: Any) -> Any:  # noqa: ANN401 - as Children
        """Answer CheckRelease."""
        assert answer is Allowed
        assert isinstance(request, CheckRelease)
        self.asked.append(request.model.path)
        if request.model.path in self.withdrawn:
            raise ReleaseWithdrawn(f"release {request.model.path} was withdrawn by its owners")
        return Allowed()


def actions(device: Device, owners: Owners) -> LocalActions:
    """What carries requests out on this device."""
    identity = Identity(
        directory=device.root.parent / "identity",
        device="d1",
        server="https://localhost",
        broker=Broker("localhost", 1, is_tls=False),
        telemetry_secret=b"",
        root=b"",
    )
    return LocalActions(identity, device.updater, device.state, owners, device.root)


async def until(work: Coroutine[Any, Any, Done]) -> Done:
    """What it answers, in time."""
    async with asyncio.timeout(20):
        return await work


def test_a_rollback_serves_the_other_slot_without_a_download(tmp_path: Path) -> None:
    """The deployment is reported as rolled back by a person, and the model is not blamed."""

    async def run() -> None:
        device, owners = await deployed(tmp_path, V1, V2), Owners()
        device.line.is_silent = True
        done = await until(actions(device, owners).carry_out(RollBack(family=FAMILY)))
        assert done == Done(family=FAMILY, slot="A", version="v1", state=S.ROLLED_BACK)
        assert device.worker.digest == V1.digest
        record = device.updater.records[FAMILY]
        assert record.fault is not None
        assert (record.generation, record.fault.code) == (2, "device.cancelled")
        assert owners.asked == [V1.model.path]
        assert slots.mark_of(slots.slot(device.root, FAMILY, "B")) is Mark.GOOD
        again = await until(actions(device, owners).carry_out(RollBack(family=FAMILY)))
        assert again.version == "v2"

    asyncio.run(run())


def test_a_retired_device_takes_no_word_of_anybody(tmp_path: Path) -> None:
    """Also while its core still runs: what serves no more is not brought back."""

    async def run() -> None:
        device, owners = await deployed(tmp_path, V1, V2), Owners()
        device.state.save_retirement(Retirement(generation=1, phase=Phase.ERASING))
        for request in (RollBack(family=FAMILY), MarkSlot(family=FAMILY, slot="other", mark="bad")):
            with pytest.raises(DeviceError, match="retired"):
                await until(actions(device, owners).carry_out(request))
        assert device.worker.digest == V2.digest
        assert owners.asked == []

    asyncio.run(run())


def test_a_rollback_ends_an_open_deployment(tmp_path: Path) -> None:
    """Before the switch nothing moves; the model that serves goes on."""

    async def run() -> None:
        device, owners = await deployed(tmp_path, V1, V2), Owners()
        device.line.is_silent = True
        device.updater.offer(V3.order(3))
        await device.reaches(S.FETCHING)
        done = await until(actions(device, owners).carry_out(RollBack(family=FAMILY)))
        assert done == Done(family=FAMILY, slot="B", version="v2", state=S.FAILED)
        assert owners.asked == []

    asyncio.run(run())


def test_a_rollback_in_probation_brings_the_former_model_back(tmp_path: Path) -> None:
    """At once, and the new one stays untried rather than bad."""

    async def run() -> None:
        device = await deployed(tmp_path, V1)
        device.updater.offer(V2.order(2, probation_s=60.0))
        await device.reaches(S.PROBATION)
        done = await until(actions(device, Owners()).carry_out(RollBack(family=FAMILY)))
        assert (done.version, done.state) == ("v1", S.ROLLED_BACK)
        assert slots.mark_of(slots.slot(device.root, FAMILY, "B")) is Mark.UNTRIED

    asyncio.run(run())


def test_nobody_goes_back_to_what_the_owners_withdrew_or_a_person_marked_bad(
    tmp_path: Path,
) -> None:
    """The refusal says why, and nothing changes."""

    async def run() -> None:
        device, owners = await deployed(tmp_path, V1, V2), Owners()
        act = actions(device, owners)
        owners.withdrawn = {V1.model.path}
        with pytest.raises(ReleaseWithdrawn):
            await act.carry_out(RollBack(family=FAMILY))
        owners.withdrawn = set()
        await act.carry_out(MarkSlot(family=FAMILY, slot="other", mark="bad"))
        with pytest.raises(SlotBroken, match="not marked good"):
            await act.carry_out(RollBack(family=FAMILY))
        assert (device.serving(), device.updater.records[FAMILY].state) == ("v2", S.COMMITTED)
        await act.carry_out(MarkSlot(family=FAMILY, slot="other", mark="good"))
        assert (await until(act.carry_out(RollBack(family=FAMILY)))).version == "v1"

    asyncio.run(run())


def test_marks_counts_and_times_are_kept(tmp_path: Path) -> None:
    """Of each slot: how often it was filled and switched to, when, and what is thought of it."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2, V3)
        device.worker.failing_service = {"v1"}
        device.updater.offer(V1.order(4, probation_s=5.0))
        assert (await device.ended(4)).state is S.ROLLED_BACK
        known = {each.name: each for each in device.state.slots()}
        assert (known["A"].digest, known["A"].mark) == (V3.digest, "good")
        assert (known["A"].installed_count, known["A"].activated_count) == (2, 3)
        assert (known["B"].digest, known["B"].mark) == (V1.digest, "bad")
        assert (known["B"].installed_count, known["B"].committed_at) == (2, 0)
        assert known["A"].committed_at >= known["A"].installed_at > 0

    asyncio.run(run())


def test_the_socket_is_the_agents_own_and_answers_lines(tmp_path: Path) -> None:
    """Nobody else may open it; what it cannot read it refuses, and goes on."""

    async def run() -> None:
        device = await deployed(tmp_path, V1, V2)
        path = tmp_path / local_control.SOCKET_NAME
        server = LocalControl(path, actions(device, Owners()))
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for line in (b"\n", b"{}\n", b"[1,2\n"):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(line)
            writer.write_eof()
            assert json.loads(await reader.read())["code"] == "wire.malformed"
            writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * 100_000)  # too long to be answered
        assert await reader.read() == b""
        writer.close()
        asked = asyncio.to_thread(local_control.ask, path, RollBack(family=FAMILY))
        done = await asked
        assert done is not None
        assert done.version == "v1"
        with pytest.raises(ShoalError, match="nothing of other serves"):
            await asyncio.to_thread(local_control.ask, path, RollBack(family="other"))
        await server.close()
        assert local_control.ask(path, RollBack(family=FAMILY)) is None

    asyncio.run(run())


@pytest.fixture
def stopped_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, list[str]]]:
    """A device with v1 and v2 whose agent does not run, and the words that begin a command."""
    asyncio.run(_deploy_and_stop(tmp_path))
    folder = tmp_path / "identity"
    folder.mkdir()
    monkeypatch.setattr(
        "agent.local_actions.identities.load",
        lambda *_: Identity(folder, "d1", "https://x", Broker("x", 1, is_tls=False), b"", b""),
    )
    owners = Owners()
    monkeypatch.setattr("agent.local_actions.Children", lambda **_: owners)
    mask = os.umask(0o022)
    yield tmp_path, ["--state-dir", str(tmp_path)]
    os.umask(mask)


async def _deploy_and_stop(folder: Path) -> None:
    device = await deployed(folder, V1, V2)
    await device.updater.stop()
    device.state.close()


def test_the_commands_work_while_the_agent_is_down(
    stopped_device: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """`slots` shows, `rollback` moves the pointer, and the agent that starts later agrees."""
    folder, words = stopped_device
    assert cli.main([*words, "slots", "--output", "json"]) == 0
    shown = {each["name"]: each for each in json.loads(capsys.readouterr().out)[FAMILY]}
    assert (shown["B"]["version"], shown["B"]["is_serving"], shown["B"]["mark"]) == (
        "v2",
        True,
        "good",
    )
    assert cli.main([*words, "rollback"]) == 0
    assert "version v1 in slot A serves; the deployment is rolled_back" in capsys.readouterr().out
    serving = slots.serving(folder / "slots", FAMILY)
    assert serving is not None
    assert serving.name == "A"
    assert cli.main([*words, "mark", "bad", "other"]) == 0
    assert cli.main([*words, "rollback"]) == 1
    assert "not marked good" in capsys.readouterr().err
    assert cli.main([*words, "slots"]) == 0
    text = capsys.readouterr().out
    assert "digits/A  v1  serving" in text
    assert "mark       bad" in text


def test_the_commands_leave_a_running_agents_files_alone(
    stopped_device: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the lock is held and no socket answers, nothing is done."""
    folder, words = stopped_device
    held = locks.hold(folder / locks.AGENT_LOCK, "agent")
    assert cli.main([*words, "rollback"]) == 1
    assert "another agent uses" in capsys.readouterr().err
    os.close(held)


def test_a_family_that_is_not_here_is_a_fault_of_the_command(
    stopped_device: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names those that are."""
    _, words = stopped_device
    assert cli.main([*words, "rollback", "--family", "letters"]) == 2
    assert "only digits" in capsys.readouterr().err


def test_requests_survive_their_way(tmp_path: Path) -> None:
    """What is asked is what is read."""
    for request in (RollBack(family=FAMILY), MarkSlot(family=FAMILY, slot="other", mark="bad")):
        line = msgspec.json.encode(request)
        assert local_control._parse(line) == request


def test_the_owners_last_word_on_this_device_decides_offline(tmp_path: Path) -> None:
    """By the verified cache alone, however old: what they allowed may serve again, no more."""
    owners = signing.Owners()
    for version in ("1", "2"):
        owners.publish(version)

    def admit(files: dict[str, bytes]) -> Admit:
        return Admit(
            metadata_dir=str(tmp_path),
            root=owners.root,
            files=files,
            envelope=owners.assignment(),
            device="dev-1",
            generations={},
            nonce=None,
            now=signing.NOW,
            time_floor=signing.NOW,
        )

    def check(version: str) -> CheckRelease:
        model = owners.order(version).model
        return CheckRelease(
            metadata_dir=str(tmp_path), root=owners.root, floors={}, family="digits", model=model
        )

    async def run() -> None:
        children = Children(s_max=60)
        await children.run(admit(owners.seal()), Admitted)
        await children.run(check("1"), Allowed)
        owners.publish("3", withdraw=("digits/1/manifest.json",))
        await children.run(check("1"), Allowed)  # this device has not heard of it
        await children.run(admit(owners.seal()), Admitted)
        with pytest.raises(ReleaseWithdrawn):
            await children.run(check("1"), Allowed)
        await children.run(check("2"), Allowed)
        await children.stop()

    asyncio.run(run())
