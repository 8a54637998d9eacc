"""Who a device is: read from disk, refused in words, and never without TLS to another machine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent import core, identity
from agent.identity import Broker
from firmware_bundles.errors import ConfigInvalid, NotEnrolled, StateDamaged


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtts://fleet.example:8884", Broker("fleet.example", 8884, is_tls=True)),
        ("mqtts://fleet.example", Broker("fleet.example", 8883, is_tls=True)),
        ("mqtt://127.0.0.1", Broker("127.0.0.1", 1883, is_tls=False)),
        ("mqtt://[::1]:1", Broker("::1", 1, is_tls=False)),
    ],
)
def test_a_broker_is_read(url: str, broker: Broker) -> None:
    """With the protocol's own ports."""
    assert identity.parse_broker(url) == broker


@pytest.mark.parametrize(
    "url",
    [
        "mqtt://10.0.0.1",
        "mqtt://127.0.0.1.example",
        "http://x",
        "mqtts://",
        "mqtts://x:y",
        "",
        "//",
    ],
)
def test_other_brokers_are_refused(url: str) -> None:
    """Plain text stays on this machine."""
    with pytest.raises(ConfigInvalid):
        identity.parse_broker(url)


def test_a_device_without_identity_is_not_enrolled(tmp_path: Path) -> None:
    """Which is no damage."""
    with pytest.raises(NotEnrolled):
        identity.load(tmp_path)


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"device":"A B","server":"","broker":""}'])
def test_an_identity_that_cannot_be_read_is_damage(tmp_path: Path, text: bytes) -> None:
    """And says which file."""
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / identity.FACTS).write_bytes(text)
    with pytest.raises(StateDamaged, match=r"agent\.json"):
        identity.load(tmp_path)


def test_a_damaged_identity_does_not_end_the_core(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker serves meanwhile: it is told, and read again until it is mended."""
    (tmp_path / identity.FOLDER).mkdir()
    (tmp_path / identity.FOLDER / identity.FACTS).write_bytes(b"{")

    async def load() -> None:
        async with asyncio.timeout(0.2):
            await core.load_identity(tmp_path)

    with pytest.raises(TimeoutError):
        asyncio.run(load())
    assert "event=identity-damaged" in capsys.readouterr().err
