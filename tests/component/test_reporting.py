"""Reports: what is true is told, also when telling it failed at first."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import identity, reports
from agent.children import Children
from agent.clock import Clock
from agent.identity import Broker, Identity
from agent.reports import Reports
from agent.store import state_schema
from agent.store.state import State
from support.deployments import PointerWorker

NOW = 1_800_000_000.0


def test_a_report_that_failed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal is told even if no process could be started in that moment."""
    monkeypatch.setattr(reports, "DETECTION_PAUSE_S", 0.1)
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (tmp_path / identity.KEY).write_bytes(key)
    state_schema.prepare(tmp_path / "state.db")

    async def run() -> list[str]:
        state = State.open(tmp_path / "state.db")
        state.detect("trust.refused", "no", 1.0)
        children = Children(s_max=30, python="/nonexistent/python")
        made = Reports(
            Identity(tmp_path, "dev-1", "", Broker("", 1, is_tls=False), b"", b""),
            incarnation="0" * 16,
            report_s=600,
            state=state,
            children=children,
            worker=PointerWorker(tmp_path / "slots"),
            clock=Clock(),
            slots_root=tmp_path / "slots",
        )
        sent: list[str] = []
        arrived = asyncio.Event()

        def send(topic: str, _payload: bytes) -> bool:
            sent.append(topic)
            arrived.set()
            return True

        running = asyncio.create_task(made.run(dict, send))
        made.ask(0)
        await asyncio.sleep(0.3)
        assert sent == []
        children._python = sys.executable
        async with asyncio.timeout(20):
            await arrived.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await children.stop()
        state.close()
        return sent

    assert asyncio.run(run()) == ["shoal/v1/d/dev-1/up/report"]


def test_a_clock_that_is_wrong_is_told_once_until_it_is_mended(tmp_path: Path) -> None:
    """It is judged by signed times, and people should know why."""
    own = [NOW]
    state_schema.prepare(tmp_path / "state.db")

    async def run() -> list[int]:
        state = State.open(tmp_path / "state.db")
        made = Reports(
            Identity(tmp_path, "dev-1", "", Broker("", 1, is_tls=False), b"", b""),
            incarnation="0" * 16,
            report_s=600,
            state=state,
            children=Children(s_max=30),
            worker=PointerWorker(tmp_path / "slots"),
            clock=Clock(NOW, source=lambda: own[0]),
            slots_root=tmp_path / "slots",
        )
        counts = []
        for shown in (NOW - 60, 0.0, 0.0, NOW + 60, 0.0):
            own[0] = shown
            report = await made._make({})
            counts.append(sum(each.count for each in report.detected))
            assert {each.code for each in report.detected} <= {"device.clock_suspect"}
            assert report.time >= NOW
        state.close()
        return counts

    assert asyncio.run(run()) == [0, 1, 1, 1, 2]
