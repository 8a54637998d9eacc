"""Children: one request in, one answer out, and errors come back as what they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import children
from agent.children import Children, Prepared, PrepareState, Signed, SignReport
from agent.store.state import State
from firmware_bundles.errors import Malformed, TaskFailed, TrustError
from firmware_bundles.trust import envelopes
from firmware_bundles.wire.messages import Report


def run(request: children.Request, answer: type[children.AnswerT]) -> children.AnswerT:
    """Ask a real child."""

    async def ask() -> children.AnswerT:
        return await Children(s_max=60).run(request, answer)

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
    request = children.Admit(
        metadata_dir=str(tmp_path / "trust"),
        root=b"not a root",
        files={},
        envelope=b"{}",
        device="d1",
        generations={},
        nonce=None,
        now=1.8e9,
    )
    with pytest.raises(TrustError):
        run(request, children.Admitted)


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


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("admit", b"{"),
        ("admit", b'{"type": "fly"}'),
        ("admit", b'{"type": "prepare_state", "path": "x"}'),
        ("fly", b"\xff"),
    ],
)
def test_a_broken_request_is_refused_in_words(verb: str, said: bytes) -> None:
    """Exit status 1 and a refusal, whatever was said."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "agent.task", verb],
        input=said,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert Malformed.code.encode() in done.stdout
    assert done.stderr == b""
