"""Patches over a real broker: fewer bytes where they work, the whole model where they do not."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from fleet import wait_until
from support.installations import roll_out, serve_first_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleet import Installation

GARBAGE = b"\x00\x10" + b"no patch at all " * 40


def _published(installation: Installation, sample: str, version: str) -> dict[str, Any]:
    """Publish a release, and return it once the patch to its model is there."""
    installation.publish(sample, version)

    def is_there() -> bool:
        patches = installation.get(f"/releases/digits/{version}")["patches"]
        return any(patch["is_used"] for patch in patches)

    wait_until(is_there, f"a patch to {version}", 40)
    words = ("--output", "json", "release", "show", "digits", version)
    found: dict[str, Any] = json.loads(installation.shoal(*words))
    return found


def _transfers(installation: Installation, version: str) -> dict[str, int]:
    found: dict[str, int] = {}

    def told() -> bool:
        found.update(installation.get(f"/releases/digits/{version}")["transfers"])
        return found["devices"] == 1

    wait_until(told, f"the report of what came for {version}", 40)
    return found


def _replace_patches(installation: Installation) -> None:
    """Let the control plane offer, in place of each patch, what is none."""
    assert installation.server is not None
    installation.server.stop()
    digest = hashlib.sha256(GARBAGE).hexdigest()
    (installation.data / "chunks" / digest).write_bytes(GARBAGE)
    with contextlib.closing(sqlite3.connect(installation.data / "shoal.db")) as database:
        values = (digest, len(GARBAGE), json.dumps([digest]))
        database.execute("UPDATE patch SET content = ?, length = ?, chunks = ?", values)
        database.commit()
    installation.start_server()


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(300)
def test_a_model_comes_by_patch_and_whole_where_the_patch_is_bad(
    install: Callable[[str], Installation],
) -> None:
    """The second model by patch; the third, whose patch somebody replaced, whole. Both commit."""
    installation = install("mosquitto")
    serve_first_model(installation, 1)
    (device,) = installation.devices.values()
    used = [each for each in _published(installation, "v2", "2")["patches"] if each["is_used"]]
    assert ("1", "model.tflite") in {(each["source"], each["file"]) for each in used}
    roll_out(installation, "second", "2")
    came = _transfers(installation, "2")
    length, full_length = (sum(each[name] for each in used) for name in ("length", "full_length"))
    assert came["patch_bytes"] == length < full_length
    assert came["saved_bytes"] == full_length - length
    assert "event=patch-applied" in (installation.logs / f"{device.id}.log").read_text()

    _published(installation, "bad", "3")
    _replace_patches(installation)
    roll_out(installation, "third", "3")
    came = _transfers(installation, "3")
    assert (came["patch_bytes"], came["saved_bytes"]) == (0, 0)
    shown = installation.get(f"/devices/{device.id}")
    assert [row["state"] for row in shown["reported"]] == ["committed"]
    assert "transfer.patch_refused" in {row["code"] for row in shown["detected"]}
