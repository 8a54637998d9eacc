"""Children: one request in, one answer out, and errors come back as what they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import task_messages
from agent.children import AnswerT, Children
from agent.store.state import State
from agent.task_messages import Prepared, PrepareState, Signed, SignReport
from firmware_bundles.errors import Malformed, TaskFailed, TrustError
from firmware_bundles.trust import envelopes
from firmware_bundles.wire.messages import Report


def run(request: task_messages.Request, answer: type[AnswerT]) -> AnswerT:
    """Ask a real child."""

    async def ask() -> AnswerT:
        children = Children(s_max=60)
        try:
            return await children.run(request, answer)
        finally:
            await children.stop()

    return asyncio.run(ask())


def report() -> Report:
    """A report of a device without families."""
    return Report(
        device="d1", incarnation="0" * 16, counter=1, time=1.0, agent_version="0", families=()
    )


def test_a_report_is_signed_with_the_devices_key(tmp_path: Path) -> None:
    """The envelope opens with the public half, and says what was signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "device.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    signed = run(SignReport(key_path=str(path), report=report()), Signed)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    opened = envelopes.open_envelope(Report, signed.envelope, [envelopes.device_key("d1", public)])
    assert opened == report()


def test_the_state_is_prepared_by_a_child(tmp_path: Path) -> None:
    """The core itself never loads what makes tables."""
    run(PrepareState(path=str(tmp_path / "state.db")), Prepared)
    State.open(tmp_path / "state.db").close()


def test_a_refusal_comes_back_as_its_own_class(tmp_path: Path) -> None:
    """By its code."""
    request = task_messages.Admit(
        metadata_dir=str(tmp_path / "trust"),
        root=b"not a root",
        files={},
        envelope=b"{}",
        device="d1",
        generations={},
        nonce=None,
        now=1.8e9,
        time_floor=1.8e9,
    )
    with pytest.raises(TrustError):
        run(request, task_messages.Admitted)


def test_a_task_that_fails_is_task_failed(tmp_path: Path) -> None:
    """A missing key is no crash of the core."""
    with pytest.raises(TaskFailed):
        run(SignReport(key_path=str(tmp_path / "none"), report=report()), Signed)


def test_a_child_that_does_not_answer_in_time_is_killed(tmp_path: Path) -> None:
    """And nothing is left of it."""

    async def ask() -> None:
        child = Children(s_max=0.001)
        await child.run(PrepareState(path=str(tmp_path / "state.db")), Prepared)

    with pytest.raises(TaskFailed, match="did not answer"):
        asyncio.run(ask())


def test_a_program_that_is_no_task_is_task_failed(tmp_path: Path) -> None:
    """Unreadable output is never believed."""

    async def ask() -> None:
        child = Children(s_max=10, python="/bin/true")
        await child.run(PrepareState(path=str(tmp_path / "state.db")), Prepared)

    with pytest.raises(TaskFailed, match="no readable answer"):
        asyncio.run(ask())


async def _two_requests(children: Children, folder: Path, pause_s: float) -> set[int]:
    """The process ids that answered two requests, with a pause between them."""
    seen = set()
    for number in range(2):
        await children.run(PrepareState(path=str(folder / f"{number}.db")), Prepared)
        assert children._child is not None
        seen.add(children._child.pid)
        await asyncio.sleep(pause_s)
    await children.stop()
    return seen


def test_a_child_stays_for_the_next_request(tmp_path: Path) -> None:
    """Most of a request's cost is the start of its child, so a busy core keeps it."""
    children = Children(s_max=60, idle_s=30)
    assert len(asyncio.run(_two_requests(children, tmp_path, 0.0))) == 1


def test_an_idle_child_leaves(tmp_path: Path) -> None:
    """A core that has nothing to verify pays for no child."""

    async def ask() -> None:
        children = Children(s_max=60, idle_s=0.05)
        await children.run(PrepareState(path=str(tmp_path / "state.db")), Prepared)
        child = children._child
        assert child is not None
        assert await asyncio.wait_for(child.wait(), 10) == 0
        assert children._child is None

    asyncio.run(ask())


def test_a_child_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """The request under way fails cleanly, the next one is answered."""

    async def ask() -> None:
        children = Children(s_max=60)
        await children.run(PrepareState(path=str(tmp_path / "1.db")), Prepared)
        assert children._child is not None
        children._child.kill()
        with pytest.raises(TaskFailed, match="killed by signal 9"):
            await children.run(PrepareState(path=str(tmp_path / "2.db")), Prepared)
        await children.run(PrepareState(path=str(tmp_path / "3.db")), Prepared)
        await children.stop()

    asyncio.run(ask())


@pytest.mark.parametrize("said", [b"{", b'{"type": "fly"}', b"\xff", b""])
def test_a_broken_request_is_refused_in_words(said: bytes) -> None:
    """A frame without a known request is answered with a refusal, and the next is read."""
    framed = len(said).to_bytes(4, "big") + said
    done = _talk(framed + framed)
    assert done.returncode == 0
    assert done.stdout.count(Malformed.code.encode()) == 2
    assert done.stderr == b""


@pytest.mark.parametrize("said", [b"\x00", b"\xff\xff\xff\xff"])
def test_a_broken_frame_ends_the_child(said: bytes) -> None:
    """What is no frame, or one too long, is not read on."""
    done = _talk(said)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def _talk(said: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-I", "-m", "agent.task"], input=said, capture_output=True, check=False
    )
