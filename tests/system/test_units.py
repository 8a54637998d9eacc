"""The systemd units: well written, tightly fenced, and kept to by core and worker as two users."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.store.buffer import Buffer
from firmware_bundles.wire.messages import SegmentKind
from processes import children_of, free_port
from support import sandbox, service_manager, spool
from support.bundles import images
from support.service_manager import STATE_DIR, Root, Service
from support.workers import infer

TESTS = Path(__file__).parents[1]
AGENT, INFERENCE = "shoal-agent.service", "shoal-inference.service"
CONTROL_PLANE = "shoal-control-plane.service"
SOCKETS = ("shoal-inference.socket", "shoal-inference-control.socket")
INFER = "/v2/models/digits/infer"

needs_systemd = pytest.mark.needs("systemd-analyze")
needs_users = pytest.mark.needs("setpriv")


@pytest.fixture
def root() -> Iterator[Root]:
    """Give an installation on a staged root."""
    with service_manager.staged() as made:
        yield made


def analyze(root: Root, *words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a staged root."""
    command = ["systemd-analyze", f"--root={root.path}", "--no-pager", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def put_programs(root: Root) -> None:
    """Put programs where the units look for them, and systemd's own units beside ours."""
    folder = root.at(str(service_manager.PREFIX / "bin"))
    folder.mkdir(parents=True)
    for name in ("python", "shoal", "shoal-agent"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    units = "/usr/lib/systemd/system"
    shutil.copytree(units, root.at(units), symlinks=True)


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(root: Root) -> None:
    """Each key is known, each program there: nothing is said, because what is said is no error."""
    put_programs(root)
    units = [each.name for each in service_manager.SYSTEMD.glob("*.s*") if each.suffix != ".sh"]
    assert len(units) == 5
    found = analyze(root, "verify", *units)
    assert (found.returncode, found.stderr) == (0, "")
    unit = root.at(f"/etc/systemd/system/{AGENT}")
    unit.write_text(unit.read_text().replace("Restart=", "Restrat="))
    assert "Restrat" in analyze(root, "verify", AGENT).stderr


@needs_systemd
@pytest.mark.parametrize(("unit", "exposure"), [(AGENT, 16), (INFERENCE, 7), (CONTROL_PLANE, 15)])
def test_units_stay_fenced_in(root: Root, unit: str, exposure: int) -> None:
    """The exposure, in tenths, that systemd computes does not rise; 100 is no fence at all."""
    found = analyze(root, "security", "--offline=yes", f"--threshold={exposure}", unit)
    assert found.returncode == 0, found.stdout.splitlines()[-1]


@pytest.mark.parametrize("name", [AGENT, INFERENCE, CONTROL_PLANE])
def test_units_never_give_up(root: Root, name: str) -> None:
    """Whatever happens how often, systemd starts the service again, and an OOM kill is no end."""
    unit = root.unit(name)
    assert unit.one("Restart") == "always"
    assert unit.one("StartLimitIntervalSec") == "0"
    assert unit.one("OOMPolicy") == "continue"
    assert [root.unit(each).one("TriggerLimitIntervalSec") for each in SOCKETS] == ["0", "0"]


def test_every_line_of_a_unit_is_explained() -> None:
    """systemd/README.md has a word on each key that a unit sets."""
    told = (service_manager.SYSTEMD / "README.md").read_text()
    units = [*service_manager.SYSTEMD.glob("*.service"), *service_manager.SYSTEMD.glob("*.socket")]
    keys = {key for unit in units for key in re.findall(r"^(\w+)=", unit.read_text(), re.MULTILINE)}
    assert len(keys) > 40
    assert {key for key in keys if f"`{key}" not in told} == set()


def test_an_installation_may_be_repeated(root: Root) -> None:
    """It changes nothing the second time; a prefix that no unit can hold is refused."""
    before = {each: each.lstat().st_mode for each in root.path.rglob("*")}
    root.install()
    assert {each: each.lstat().st_mode for each in root.path.rglob("*")} == before
    refused = subprocess.run(
        [service_manager.SYSTEMD / "install.sh", "--root", root.path, "--prefix", "relative"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (refused.returncode, "absolute path" in refused.stderr) == (2, True)


@needs_systemd
@needs_users
def test_folders_belong_to_whom_they_should(root: Root) -> None:
    """The worker's group reaches slots and spool, and what is made there is its group's, too."""
    core, shared = root.account(root.unit(AGENT)), root.gid("shoal")
    modes = {"": 0o750, "/slots": 0o2750, "/spool": 0o2770}
    for folder, mode in modes.items():
        found = root.at(STATE_DIR + folder).stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, core.uid, shared)
    assert root.at("/run/shoal-agent").stat().st_uid == core.uid
    assert root.at(f"{STATE_DIR}/run").readlink() == Path("/run/shoal-agent")


# From here on the test is systemd.


@contextmanager
def worker_on(root: Root) -> Iterator[Service]:
    """Give the worker's service, with a model to serve, not started."""
    as_core(root, "from support.bundles import Sample; Sample('v1').put(state_dir, 'A')")
    with closing(Service(root, INFERENCE, SOCKETS, SHOAL_INFERENCE_SEGMENT_AGE_S="0.1")) as made:
        yield made


def as_core(root: Root, code: str) -> str:
    """Run Python as the core's user, in its groups, and return what it prints."""
    unit = root.unit(AGENT)
    command = [*root.account(unit).command(), sys.executable, "-c"]
    head = f"import os; os.umask(0o{unit.one('UMask')}); from pathlib import Path; "
    head += f"state_dir = Path({str(root.at(STATE_DIR))!r})\n"
    done = subprocess.run(
        [*command, head + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(root: Root, path: str = "/run/shoal-agent/inference.sock") -> str:
    """Ask the endpoint once, and return the prediction's id."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(service_manager.WAIT_S_MAX)
    line.connect(str(root.at(path)))
    return ask_over(line)


def ask_over(line: socket.socket) -> str:
    """Ask once over a connection, and close it."""
    connection = http.client.HTTPConnection("device")
    connection.sock = line
    try:
        connection.request("POST", INFER, json.dumps(infer(images(1)[0])))
        answer = connection.getresponse()
        told = json.loads(answer.read())
        assert answer.status == 200, told
        return str(told["parameters"]["prediction_id"])
    finally:
        connection.close()


def sealed(root: Root) -> list[str]:
    """Return the ids of the predictions in the buffer."""
    store = Buffer(root.at(f"{STATE_DIR}/spool/buffer.db"))
    rows = spool.sealed_rows(spool.segments(store), SegmentKind.PREDICTIONS)
    store.close()
    return [f"{incarnation}-{number}" for incarnation, number in rows]


@needs_systemd
@needs_users
def test_core_and_worker_share_the_buffer_and_nothing_else(root: Root) -> None:
    """As two users: the worker records and cannot read the core's files, the core delivers."""
    drain = """
        from agent.store.buffer import Buffer
        from firmware_bundles.wire import codec
        from firmware_bundles.wire.messages import Segment
        store = Buffer(state_dir / "spool" / "buffer.db")
        found = store.waiting(100)
        for each in found:
            store.acknowledge(codec.decode(Segment, each.body).key)
        print(bool(found), len(store.waiting(100)))
    """
    key = as_core(root, "p = state_dir / 'device.key'; p.write_text('x'); p.chmod(0o640); print(p)")
    with worker_on(root) as worker:
        for number in range(2):  # the core opens what the worker made, then the other way round
            worker.start()
            ask(root)
            assert worker.end() == 0
            assert as_core(root, drain).split() == ["True", "0"], number
        reading = [*worker.account.command(), "cat", key.strip()]
        refused = subprocess.run(reading, check=False, capture_output=True, text=True)
        assert "Permission denied" in refused.stderr
        writing = [*worker.account.command(), "touch", str(worker.state_dir / "slots/x")]
        assert subprocess.run(writing, check=False, capture_output=True).returncode != 0
        assert not list(worker.state_dir.glob("spool/*.damaged"))


@needs_systemd
@needs_users
def test_requests_wait_for_a_worker_on_sockets_that_outlive_it(root: Root) -> None:
    """Killed again and again under systemd, no client is refused: the next worker answers."""
    with worker_on(root) as worker:
        answered: list[str] = []
        for _ in range(2):
            worker.start()
            answered.append(ask(root))
            assert worker.end(signal.SIGKILL) == -signal.SIGKILL
            waiting = [
                threading.Thread(target=lambda: answered.append(ask(root))) for _ in range(8)
            ]
            for each in waiting:
                each.start()
            worker.start()
            for each in waiting:
                each.join()
            assert worker.end() == 0
        assert len(answered) == 18
        assert sorted(sealed(root)) == sorted(answered)


@needs_systemd
@needs_users
def test_the_endpoint_may_listen_on_loopback_too(root: Root) -> None:
    """As the comment in the socket unit says: one more ListenStream, and both answer."""
    port = free_port()
    unit = root.at("/etc/systemd/system/shoal-inference.socket")
    unit.write_text(unit.read_text() + f"\n[Socket]\nListenStream=127.0.0.1:{port}\n")
    with worker_on(root) as worker:
        worker.start()
        ask(root)
        ask_over(socket.create_connection(("127.0.0.1", port), service_manager.WAIT_S_MAX))


@needs_systemd
@needs_users
def test_an_orderly_stop_answers_what_was_asked_and_persists_it(root: Root) -> None:
    """A request that is half received when SIGTERM comes is answered, and its row sealed."""
    body = json.dumps(infer(images(1)[0])).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: device\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with worker_on(root) as worker, closing(socket.socket(socket.AF_UNIX)) as line:
        worker.start()
        line.settimeout(service_manager.WAIT_S_MAX)
        line.connect(str(root.at("/run/shoal-agent/inference.sock")))
        line.sendall(head + body[:-1])
        assert ask(root)  # the worker has had its turn with the first connection
        worker.send(signal.SIGTERM)
        worker.wait_for("STOPPING=1")
        line.sendall(body[-1:])
        answer = line.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 "), answer
        assert worker.end(signal.SIGTERM) == 0
        assert len(sealed(root)) == 2


@needs_systemd
@needs_users
def test_a_worker_that_hangs_falls_silent(root: Root) -> None:
    """Its watchdog beats while its loop turns, and systemd would end one that does not."""
    with worker_on(root) as worker:
        worker.start(watchdog_s=0.6)
        assert "STATUS=serves digits" in worker.said
        worker.wait_for("WATCHDOG=1")
        worker.send(signal.SIGSTOP)
        while worker.hear(0.6):
            pass
        worker.said.clear()
        assert not worker.hear(0.6)
        worker.send(signal.SIGCONT)
        worker.wait_for("WATCHDOG=1")
        assert worker.end(signal.SIGABRT) == -signal.SIGABRT  # what systemd's watchdog sends
        worker.start()
        ask(root)


@needs_systemd
@needs_users
def test_a_worker_serves_inside_the_fence_of_its_unit(root: Root, tmp_path: Path) -> None:
    """Models load, self-tests run and rows are sealed with the system calls that the unit allows.

    And without memory that is both written and executed.
    """
    control = root.at("/run/shoal-agent/control.sock")
    test = f"""
        import asyncio
        from agent.inference import control
        test = control.SelfTest("digits", "A")
        print(asyncio.run(control.call(Path({str(control)!r}), test, 60)).rows)
    """
    with worker_on(root) as worker:
        calls = root.path / "allowed"
        calls.write_text("\n".join(sandbox.allowed(worker.unit.all("SystemCallFilter"))))
        calls.chmod(0o644)
        assert "mount" not in calls.read_text().split()
        worker.start([sys.executable, sandbox.__file__, str(calls)])
        assert "Seccomp:\t2" in Path(f"/proc/{worker.pid}/status").read_text()
        answered = ask(root)
        assert as_core(root, test).split() == ["32"]
        assert worker.end() == 0
        assert sealed(root) == [answered]
        assert "Operation not permitted" not in worker.log.read_text()


@needs_systemd
@needs_users
def test_the_core_leaves_the_worker_to_systemd(root: Root, tmp_path: Path) -> None:
    """The core starts no worker, finds the one that systemd runs, and tells how it is itself."""
    run_dir = str(root.at("/run/shoal-agent"))
    identity = """
        from agent import identity
        import json
        folder = state_dir / "identity"
        folder.mkdir()
        for name in identity.MODES:
            (folder / name).write_text("{}")
        facts = {"device": "d1", "server": "https://x", "broker": "mqtt://127.0.0.1:%d"}
        (folder / "agent.json").write_text(json.dumps(facts))
    """
    as_core(root, identity % free_port())
    settings = {"SHOAL_AGENT_STATE_DIR": str(root.at(STATE_DIR)), "SHOAL_AGENT_RUN_DIR": run_dir}
    with worker_on(root) as worker, closing(Service(root, AGENT, **settings)) as core:
        core.start(watchdog_s=0.6)
        core.wait_for("WATCHDOG=1")
        worker.start()
        assert core.pid is not None
        assert not any(
            b"inference" in Path(f"/proc/{each}/cmdline").read_bytes()
            for each in children_of(core.pid)
        )
        told = as_core(
            root,
            f"from agent import cli; import os; os.environ.update({settings!r});"
            " cli.main(['status', '--output', 'json'])",
        )
        assert json.loads(told)["is_worker_answering"]
        core.send(signal.SIGSTOP)
        while core.hear(0.6):
            pass
        core.said.clear()
        core.send(signal.SIGCONT)
        core.wait_for("WATCHDOG=1")
        assert core.end() == 0
        assert "STOPPING=1" in core.said
        assert worker.is_running()
