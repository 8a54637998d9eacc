"""Evidence for gates, gathered from what devices sent and what metric servers answer."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Event, Thread

import msgspec
import pytest
from msgspec import UNSET, UnsetType
from sqlalchemy import insert

from control_plane.fleet.selectors import Selector
from control_plane.rollouts import prometheus
from control_plane.rollouts.asking import Asking
from control_plane.rollouts.evidence import Evidence, Metric, Pairs
from control_plane.rollouts.executor import Executor
from control_plane.rollouts.gate_specs import MetricGate
from control_plane.rollouts.statistics import Arm
from control_plane.store import many, report_rows
from control_plane.store.pruning import Pruning
from control_plane.store.rollouts import Rollouts
from control_plane.store.schema import pair_count
from control_plane.store.watch_schema import watch
from firmware_bundles.wire.messages import Energy, FamilyReport, Report, Serving
from support.rollout_fleet import FAMILY, RowFleet, digest, rollout

SPEC = """
family: digits
release: "2"
cohort: all
phases:
  - {share: 0.5, mode: shadow, soak_s: 5, timeout_s: 60}
  - {share: 0.5, soak_s: 5, timeout_s: 60}
  - {share: 1.0, soak_s: 5, timeout_s: 60}
gates:
  %s
policy: {shadow: {share: 1.0}}
"""


class World:
    """Eight devices that serve version 1, and a rollout whose gates a test chooses."""

    def __init__(self, folder: Path, gates: str, url: str = "") -> None:
        self.fleet = RowFleet(folder, size=8)
        self.fleet.serve("1")
        self.rollouts = Rollouts(self.fleet.database)
        self.now = 1_000.0
        self.asked: list[str] = []
        self.executor = Executor(self.rollouts, lambda _devices: None, lambda: self.now)
        self.asking = Asking(self.rollouts, prometheus.ask, lambda: self.now)
        text = SPEC % gates.replace("URL", url)
        self.rollouts.create(rollout(text), Selector())

    def tick(self, state: str = "committed") -> None:
        """Let time pass, the executor act, and devices do as they are told."""
        self.now += 1.0
        self.asking.tick()
        assert self.asking.wait(10.0)
        self.executor.tick()
        self.fleet.obey(state=state)

    @property
    def evidence(self) -> Evidence:
        """What the gates are given now."""
        return self.rollouts.view(self.rollouts.get("example")).evidence

    def pair(self, device_id: str, live: str, shadow: str, *counts: int) -> None:
        """Let pairs of a device be counted: pairs, agreed, labelled, live only, shadow only."""
        names = ("pairs", "agreed", "labelled", "live_only", "shadow_only")
        row = {
            "device_id": device_id,
            "incarnation": "0" * 16,
            "kind": "shadow",
            "first": int(self.now * 1_000) + sum(counts),
            "live": digest(live),
            "shadow": digest(shadow),
            "family": FAMILY,
            "received": self.now,
        }
        with self.fleet.database.transaction() as connection:
            connection.execute(insert(pair_count), row | dict(zip(names, counts, strict=True)))


def test_pairs_are_those_of_the_release_on_devices_with_an_offer(tmp_path: Path) -> None:
    """Whichever of the two served: in the shadow before the switch, in reverse after it."""
    world = World(tmp_path, "shadow_pairs: {}")
    world.pair("device-000", "1", "2", 9, 9, 9, 9, 0)  # before the first offer
    world.tick("shadowing")
    world.tick("shadowing")
    offered = sorted(world.fleet.offered("2"))
    assert len(offered) == 4
    other = next(each for each in world.fleet.devices if each not in offered)
    world.pair(offered[0], "1", "2", 10, 7, 6, 1, 2)
    world.pair(offered[1], "2", "1", 20, 9, 5, 3, 4)
    world.pair(offered[1], "1", "3", 8, 8, 8, 8, 0)
    world.pair(other, "1", "2", 8, 8, 8, 8, 0)
    assert world.evidence.pairs == Pairs(
        devices=2, pairs=30, agreed=16, labelled=11, ours_only=2 + 3, theirs_only=1 + 4
    )
    world.fleet.database.close()


def test_a_release_that_loses_pairs_never_leaves_the_shadow(tmp_path: Path) -> None:
    """It is stopped before it answered anybody, with the numbers in the reason."""
    world = World(tmp_path, "shadow_pairs: {labels_min: 10}")
    for _ in range(3):
        world.tick("shadowing")
    world.pair(min(world.fleet.offered("2")), "1", "2", 40, 20, 40, 0, 12)
    world.tick("shadowing")
    standing = world.rollouts.get("example").standing
    assert (standing.state, standing.phase) == ("rolling_back", 0)
    why = world.rollouts.decisions("example")[-1].why
    assert any("12 were wrong only by the release and 0 only by" in each for each in why)
    world.tick()
    world.tick()
    assert world.rollouts.get("example").standing.state == "rolled_back"
    assert {world.fleet.serving(each) for each in world.fleet.devices} == {digest("1")}
    world.fleet.database.close()


def test_drift_counts_devices_by_arm_where_their_watch_is_sure(tmp_path: Path) -> None:
    """The candidate's where it serves, the control's elsewhere; who is commissioned is not in."""
    world = World(tmp_path, "drift: {}")
    for _ in range(12):
        phase = world.rollouts.get("example").standing.phase
        world.tick("shadowing" if phase == 0 else "committed")
        if phase == 1:
            break
    world.tick()
    offered = sorted(world.fleet.offered("2"))
    others = [each for each in world.fleet.devices if each not in offered]
    states = [(offered[0], "2", "changed"), (offered[1], "2", "stable")]
    states += [(offered[2], "2", "commissioning"), (offered[3], "1", "changed")]
    states += [(others[0], "1", "stable"), (others[1], "1", "changed")]
    for device_id, version, state in states:
        _watch(world, device_id, version, state)
    found = world.evidence.changed
    assert (found.candidate.devices, found.candidate.z) == (2, 1.0)
    assert (found.control.devices, found.control.z) == (2, 1.0)
    world.fleet.database.close()


def test_failures_and_deaths_count_by_device_and_arm(tmp_path: Path) -> None:
    """From signed reports, also when nothing serves between; an old agent is missing data."""
    world = World(tmp_path, "{errors: {}, crashes: {}}")
    for _ in range(12):
        phase = world.rollouts.get("example").standing.phase
        world.tick("shadowing" if phase == 0 else "committed")
        if phase == 1:
            break
    world.tick()
    offered = sorted(world.fleet.offered("2"))
    others = [each for each in world.fleet.devices if each not in offered]
    candidate = _Reporter(world, offered[0], "2")
    control = _Reporter(world, others[0], "1")
    _Reporter(world, offered[1], "2").tell(answered=90)
    candidate.tell(answered=90, failed=10, deaths=0)
    control.tell(answered=50, failed=0, deaths=0)
    world.now += 600.0
    candidate.tell(None)
    world.now += 600.0
    candidate.tell(answered=0, failed=0, deaths=2, since=9.0)
    control.tell(answered=100, failed=0, deaths=0)
    control.tell(answered=100, failed=0, deaths=0, turn=1)  # an older one says nothing
    found = world.evidence
    assert found.failed.candidate == Arm.of([0.1], [0.0], 100)
    assert found.failed.control == Arm.of([0.0], [0.0], 100)
    assert found.deaths.candidate == Arm.of([2 / 20], [0.0], 20)
    assert found.deaths.control == Arm.of([0.0], [0.0], 20)
    with Pruning(world.fleet.database).at(world.now) as prune:
        assert [prune.rows("service_count", world.now + 1, 500) for _ in range(2)] == [4, 0]
    assert world.evidence.failed.candidate == Arm()
    world.fleet.database.close()


def test_energy_counts_on_devices_whose_platform_tells_it(tmp_path: Path) -> None:
    """The mean power of each device on a logarithmic scale; the others are missing data."""
    world = World(tmp_path, "{energy: {}}")
    for device_id in world.fleet.devices:
        reporter = _Reporter(world, device_id, "1")
        reporter.tell(answered=1, energy=Energy())
        world.now += 60.0
        reporter.tell(answered=1, energy=Energy(joules=120, seconds=60))
    for _ in range(12):
        phase = world.rollouts.get("example").standing.phase
        world.tick("shadowing" if phase == 0 else "committed")
        if phase == 1:
            break
    world.tick()
    offered = sorted(world.fleet.offered("2"))
    control = min(set(world.fleet.devices) - set(offered))
    tellers = [(_Reporter(world, offered[0], "2", 9), 5), (_Reporter(world, control, "1", 9), 2)]
    silent = _Reporter(world, offered[1], "2", 9)
    for reporter, _ in tellers:
        reporter.tell(answered=1, energy=Energy())
    silent.tell(answered=1)
    world.now += 300.0
    for reporter, power in tellers:
        reporter.tell(answered=1, energy=Energy(joules=power * 300, seconds=300))
    silent.tell(answered=1)
    found = world.evidence.watts
    for arm, watts in ((found.candidate, 5.0), (found.control, 2.0)):
        assert (arm.devices, arm.observations) == (1, 5)
        assert arm.since == pytest.approx(math.log(watts))
    world.fleet.database.close()


class _Reporter:
    """A device whose reports are stored as they come."""

    def __init__(self, world: World, device_id: str, version: str, turn: int = 0) -> None:
        self._world = world
        self._device = device_id
        self._version = version
        self._turn = turn

    def tell(
        self,
        answered: int | None,
        since: float = 1.0,
        turn: int | None = None,
        failed: int | UnsetType = UNSET,
        deaths: int | UnsetType = UNSET,
        energy: Energy | UnsetType = UNSET,
    ) -> None:
        """Report what serves; nothing where `answered` is None."""
        self._turn += 1
        serving = None
        if answered is not None:
            serving = Serving(
                digest=digest(self._version),
                version=self._version,
                runtime="x",
                delegate="cpu",
                since=since,
                answered=answered,
                failed=failed,
                deaths=deaths,
                energy=energy,
            )
        report = Report(
            device=self._device,
            incarnation="0" * 16,
            counter=turn or self._turn,
            time=self._world.now,
            agent_version="1",
            families=(FamilyReport(family=FAMILY, generation=0, serving=serving),),
        )
        with self._world.fleet.database.transaction() as connection:
            report_rows.accept(connection, [report], self._world.now)


def _watch(world: World, device_id: str, version: str, state: str) -> None:
    counts = ("turn", "reference_rows", "taken", "late", "unreadable", "tested", "quiet", "rings")
    row = {
        "device_id": device_id,
        "family": FAMILY,
        "model": digest(version),
        "state": state,
        "changed": world.now,
        "since": 0.0,
        "until": world.now,
        "score": 0.0,
        "findings": [],
        **dict.fromkeys(counts, 0),
    }
    with world.fleet.database.transaction() as connection:
        many.upsert(connection, watch, [row])


class _Server:
    """A metric server that answers what a test says."""

    def __init__(self) -> None:
        self.answer: object = {}
        self.queries: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.queries.append(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(outer.answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[_Server]:
    """A metric server on this machine."""
    made = _Server()
    yield made
    made.close()


def _vector(*values: str) -> dict[str, object]:
    result = [{"metric": {}, "value": [1.0, value]} for value in values]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def test_metrics_are_asked_when_their_time_has_come(tmp_path: Path, server: _Server) -> None:
    """The answer is kept as evidence and judged; what is fresh is not asked again."""
    gates = "metrics: [{name: cpu, url: URL, query: 'avg(up)', at_most: 5, every_s: 10}]"
    world = World(tmp_path, gates, server.url)
    server.answer = _vector("4.5")
    world.tick("shadowing")
    world.tick("shadowing")
    assert len(server.queries) == 1
    assert b"query=avg%28up%29" in server.queries[0]
    assert dict(world.evidence.metrics)["cpu"].value == 4.5
    server.answer = _vector("7")
    world.now += 10
    world.tick("shadowing")
    assert world.rollouts.get("example").standing.state == "rolling_back"
    assert any(
        "metric cpu: 7, above the limit of 5" in each
        for each in world.rollouts.decisions("example")[-1].why
    )
    world.fleet.database.close()


def test_a_slow_server_delays_nothing_but_its_own_answer(tmp_path: Path) -> None:
    """The rollout is looked after meanwhile, and a query that is under way is not put twice."""
    gates = "metrics: [{name: cpu, url: 'http://a', query: up, at_most: 5, every_s: 10}]"
    world = World(tmp_path, gates)
    is_answered, queries = Event(), []

    def ask(gate: MetricGate, now: float) -> Metric:
        queries.append(gate.name)
        is_answered.wait(10.0)
        return Metric(4.5, now)

    asking = Asking(world.rollouts, ask, lambda: world.now)
    for _ in range(3):
        asking.tick()
        world.now += 20.0
        world.executor.tick()
    assert world.rollouts.get("example").standing.phase_state == "offering"
    assert queries == ["cpu"]
    is_answered.set()
    assert asking.wait(10.0)
    assert dict(world.evidence.metrics)["cpu"] == Metric(4.5, 1_000.0)
    asking.tick()
    assert asking.wait(10.0)
    assert dict(world.evidence.metrics)["cpu"].at == world.now
    world.fleet.database.close()


def test_so_many_queries_are_put_at_once(tmp_path: Path) -> None:
    """A server that never answers does not gather threads."""
    one = "{{name: cpu{}, url: 'http://a', query: up, at_most: 5}}"
    gates = ", ".join(one.format(number) for number in range(3))
    world = World(tmp_path, f"metrics: [{gates}]")
    is_over, queries = Event(), []

    def ask(gate: MetricGate, now: float) -> Metric:
        queries.append(gate.name)
        is_over.wait(10.0)
        return Metric(None, now, "no answer")

    asking = Asking(world.rollouts, ask, lambda: world.now, at_once_max=2)
    for _ in range(3):
        asking.tick()
    assert len(queries) == 2
    assert not asking.wait(0.0)
    is_over.set()
    assert asking.wait(10.0)
    world.fleet.database.close()


def test_an_answer_that_drips_has_a_deadline(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server cannot hold a query by sending a little at a time."""
    monkeypatch.setattr(prometheus, "DEADLINE_S", 0.0)
    server.answer = _vector("1")
    gate = MetricGate(name="cpu", url=server.url, query="up", at_most=1.0)
    assert "was not there after" in prometheus.ask(gate, 5.0).fault


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (_vector(), "a vector of 0 elements"),
        (_vector("1", "2"), "a vector of 2 elements"),
        (_vector("NaN"), "it is nan"),
        ({"status": "error", "error": "bad\nquery"}, "refuses the query: bad?query"),
        ([], "Expected `object`"),
    ],
)
def test_what_is_no_number_is_a_fault(server: _Server, answer: object, fault: str) -> None:
    """Nothing is guessed from an answer, and it cannot break a line."""
    server.answer = answer
    gate = MetricGate(name="cpu", url=server.url, query="up", at_most=1.0)
    found = prometheus.ask(gate, 5.0)
    assert (found.value, found.at, fault in found.fault) == (None, 5.0, True), found
    away = msgspec.structs.replace(gate, url="http://127.0.0.1:1")
    assert "cannot be asked" in prometheus.ask(away, 5.0).fault
    scalar = {"status": "success", "data": {"resultType": "scalar", "result": [1.0, "2.5"]}}
    assert prometheus.parse(json.dumps(scalar).encode(), 1.0).value == 2.5
