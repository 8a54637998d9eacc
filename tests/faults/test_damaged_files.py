"""Files of every kind that the agent owns, damaged: serving goes on, from whole files only."""

from __future__ import annotations

import itertools
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from agent.deployment import seals, slots
from agent.deployment.seals import Mark
from agent.inference.guarded import Guard
from agent.inference.registry import Registry
from agent.store import buffer
from agent.store.buffer import Buffer
from agent.telemetry.recorder import Pace, Recorder
from firmware_bundles.wire.messages import Policy
from support.bundles import Sample
from support.damage import DAMAGES
from support.field import FAMILY, Agent, Director, field, wait_until

SLOT_FILES: Final = (
    seals.SEAL_NAME,
    "manifest.json",
    "model.tflite",
    "labels.txt",
    "golden.msgpack",
    "baseline.bin",
)
# Every file in a state directory is of one of these kinds; a new kind needs a case here.
KINDS: Final = {
    "state": r"state\.db",
    "buffer": r"spool/buffer\.db",
    "usage": r"usage\.db",
    "journal": r"spool/journal-.*\.log",
    "deaths": r"spool/(breadcrumbs|deaths\.json)",
    "trust cache": r"trust/.*",
    "identity": r"identity/(agent\.json|root\.json|telemetry\.secret|device\.key)",
    "slot": rf"slots/{FAMILY}/[AB]/.*",
    "pointer": rf"slots/{FAMILY}/serving",
    "speed class": r"speed_class",
    "chunk": r"chunks/[0-9a-f]{64}(\.part)?",
    "transient": r".*/?(lock|last-words|.*-wal|.*-shm|ballast.*)|identity/(ca\.pem|device\.crt)"
    r"|.*/\..*",
}
_POLICY = Policy(probation_s=0.2, self_test_s_max=15.0)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device with v1 serving in A and v2 in B, and a buffer."""
    folder = tmp_path_factory.mktemp("damaged")
    Sample("v1").put(folder, "A")
    Sample("v2").put(folder, "B", serve=False)
    (folder / "spool").mkdir()
    buffer.ensure(folder / "spool" / "buffer.db")
    return folder


@pytest.fixture
def disk(template: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(template, tmp_path / "state"))


def served(disk: Path) -> tuple[str | None, str]:
    """What a worker that starts on this disk serves, and what it says if not all is well."""
    spool = disk / "spool"
    recorder = Recorder(spool, Buffer(spool / "buffer.db"), "0" * 16, Pace(), lambda *_, **__: None)
    guard = Guard(spool, lambda *_, **__: None)
    registry = Registry(disk / "slots", recorder, guard, lambda *_, **__: None)
    registry.start()
    status = registry.status(FAMILY)
    return status.version, status.reason


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", SLOT_FILES)
def test_a_damaged_slot_gives_way_to_the_good_other_one(disk: Path, name: str, damage: str) -> None:
    """The worker alone sees to it, at its start."""
    DAMAGES[damage](disk / "slots" / FAMILY / "A" / name)
    is_old = (name, damage) == (seals.SEAL_NAME, "remove")  # an agent without seals filled it
    assert served(disk)[0] == ("v1" if is_old else "v2")


@pytest.mark.parametrize("damage", ["truncate", "corrupt"])
@pytest.mark.parametrize("name", SLOT_FILES)
@pytest.mark.parametrize("mark", [Mark.UNTRIED, Mark.BAD])
def test_a_damaged_slot_never_gives_way_to_one_that_is_not_good(
    disk: Path, name: str, damage: str, mark: Mark
) -> None:
    """Then nothing answers, and the reason is told."""
    slots.mark(slots.slot(disk / "slots", FAMILY, "B"), mark)
    DAMAGES[damage](disk / "slots" / FAMILY / "A" / name)
    version, reason = served(disk)
    assert version is None
    assert reason


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_pointer_leads_to_a_good_model(disk: Path, damage: str) -> None:
    """Whatever lies where it was."""
    DAMAGES[damage](disk / "slots" / FAMILY / slots.POINTER_NAME)
    assert served(disk)[0] in {"v1", "v2"}


def kind_of(path: Path, root: Path) -> str:
    """The kind of a file. Raises StopIteration for one that nobody thought of."""
    name = str(path.relative_to(root))
    return next(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, name))


def files_by_kind(root: Path) -> dict[str, list[Path]]:
    """All files of a state directory."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "agent.toml":
            found.setdefault(kind_of(path, root), []).append(path)
    return found


class Patient:
    """One real device that is damaged again and again, and gets its old disk back in between."""

    def __init__(self, director: Director, agent: Agent, folder: Path) -> None:
        self.director = director
        self.agent = agent
        self._backup = folder / "backup"
        self.update("2")
        self._download_a_part()
        shutil.copytree(agent.state_dir, self._backup)

    def _download_a_part(self) -> None:
        """Kill it with some chunks on the disk, so that there is a file of each kind."""
        self.agent.proxy.bytes_per_s = 100_000.0
        self.director.order(self.agent.name, "3", _POLICY)
        wait_until(lambda: len(self.agent.stored_chunks()) >= 2, "chunks are stored")
        self.agent.kill_whole()
        self.agent.proxy.cut()
        self.agent.proxy.bytes_per_s = 0.0

    def restore(self) -> None:
        """Give it its disk back."""
        shutil.rmtree(self.agent.state_dir)
        shutil.copytree(self._backup, self.agent.state_dir)

    def update(self, version: str) -> str:
        """Roll a version out; return the state in which it ends."""
        generation = self.director.order(self.agent.name, version, _POLICY).generation
        wait_until(lambda: self.agent.has_ended(generation), f"{version} has ended")
        record = self.agent.record()
        assert record is not None
        return record.state.value

    def end(self) -> None:
        """Kill it."""
        self.agent.kill_whole()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """A device that was killed in the middle of a download; 2 serves, 3 was wanted."""
    with (
        tempfile.TemporaryDirectory(prefix="shoal-") as name,
        field(Path(name), 1) as (director, (agent,)),
    ):
        yield Patient(director, agent, Path(name))


def cases() -> list[tuple[str, str]]:
    """Each kind with a damage of its own; all pairs in the long run."""
    kinds = [kind for kind in KINDS if kind != "transient"]
    return list(zip(kinds, itertools.cycle(DAMAGES), strict=False))


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(1800)
@pytest.mark.xdist_group("system")
def test_a_device_with_damaged_files_serves_and_ends_what_it_began(
    patient: Patient,
    is_long_run: bool,  # noqa: FBT001 - a fixture
) -> None:
    """Whole models answer; a damaged state takes nothing new; all else ends the update."""
    by_kind = files_by_kind(patient.agent.state_dir)
    assert set(by_kind) - {"transient"} == set(KINDS) - {"transient"}
    pairs = cases()
    if is_long_run:
        pairs = list(itertools.product((kind for kind, _ in pairs), DAMAGES))
    for kind, damage in pairs:
        patient.restore()
        paths = by_kind[kind] if kind != "slot" else by_kind[kind][-1:]
        for path in paths[: 1 if kind in {"chunk", "journal"} else None]:
            DAMAGES[damage](path)
        if kind == "state":
            for side in patient.agent.state_dir.glob("state.db-*"):
                side.unlink()
        _live_through(patient, f"{damage} {kind}", is_stuck=kind in {"state", "identity"})


def _live_through(patient: Patient, what: str, *, is_stuck: bool) -> None:
    agent = patient.agent
    agent.start()
    wait_until(lambda: agent.answers() in {"1", "2", "3"}, f"{what}: it answers")
    generation = patient.director.orders[agent.name].generation
    if is_stuck:
        time.sleep(0.5)
        assert agent.answers() == "2", what
    else:
        wait_until(lambda: agent.has_ended(generation), f"{what}: the update ends")
        record = agent.record()
        assert record is not None
        assert record.state == "committed", (what, record.fault)
        wait_until(lambda: agent.answers() == "3", f"{what}: the new version answers")
        assert slots.read(_serving(agent)).version == "3"
    assert agent.core is not None
    assert agent.core.is_running, what
    patient.end()


def _serving(agent: Agent) -> slots.Slot:
    found = slots.serving(agent.slots, FAMILY)
    assert found is not None
    return found


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(600)
@pytest.mark.xdist_group("system")
def test_a_device_whose_slots_are_both_damaged_fetches_its_model_again(
    short_folder: Path,
) -> None:
    """By itself, at its next start; until then nothing answers, and nothing from a bad file."""
    with field(short_folder, 1) as (_, (agent,)):
        agent.kill_whole()
        for path in agent.slots.glob(f"{FAMILY}/[AB]/model.tflite"):
            DAMAGES["corrupt"](path)
        agent.start()
        wait_until(lambda: agent.answers() == "1", "it answers again")
        assert slots.read(_serving(agent)).version == "1"
