"""Bringing an installation to where the system tests begin."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from firmware_bundles import build, chunks
from firmware_bundles.identifiers import target_path
from firmware_bundles.trust import key_folder, publisher
from fleet import PASSPHRASE, SAMPLES, wait_until
from processes import program
from support.pages import Shell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fleet import Device, Installation

IMAGE = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.5] * 64}
FIRST = """\
schema: "1.0"
id: {id}
family: digits
release: "{release}"
cohort: everywhere
probation_s: 0.5
phases:
  - {{share: 1.0, soak_s: 0.2, timeout_s: 60}}
gates:
  installs: {{failed_share_max: 0.0}}
"""


def roll_out(installation: Installation, name: str, release: str, *, expected: int = 0) -> None:
    """Roll a release out to every device, and wait for the end."""
    file = installation.root / f"{name}.yaml"
    file.write_text(FIRST.format(id=name, release=release))
    installation.shoal("rollout", "start", str(file))
    installation.shoal("rollout", "watch", name, "--timeout", "90", accept=(expected,))


def publish(installation: Installation, sample: str, version: str, **terms: Any) -> None:  # noqa: ANN401
    """Build, sign and publish one of the sample models, without a program for each step."""
    source = SAMPLES / sample
    settings = build.Settings(
        family="digits",
        version=version,
        model=source / "model.tflite",
        labels=source / "labels.txt",
        golden=source / "golden.npz",
        heldout=source / "heldout.npz",
    )
    bundle = build.build(settings, installation.root / "bundles" / version)
    role = publisher.add_release(
        installation.fetch("/trust/roles/digits"),
        key_folder.family_signer(installation.keys, "digits", PASSPHRASE.encode()),
        path=target_path("digits", version),
        manifest=bundle.manifest_bytes,
        now=time.time(),
        **terms,
    )
    for entry in bundle.manifest.files:
        for chunk in chunks.cut(bundle.file_bytes(entry.name)):
            installation.put(f"/chunks/{chunk.digest}", chunk.data)
    body = {"role": role.decode(), "manifest": bundle.manifest_bytes.decode()}
    installation.post("/releases", json.dumps(body))


def version_that_answers(device: Device) -> str:
    """Ask as an application on the device does; return the model's version."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(device.socket))) as client:
        answer = client.post("http://shoal/v2/models/digits/infer", json={"inputs": [IMAGE]})
    assert answer.status_code == httpx.codes.OK, answer.text
    return str(answer.json()["model_version"])


def shell(
    installation: Installation,
    replace: Mapping[str, str],
    hooks: Mapping[str, Callable[..., None]],
) -> Shell:
    """Return a shell in the installation's folder, with its programs and credentials."""
    environment = installation.environment | {"SHOAL_BACKUP_PASSPHRASE": "of the backups"}
    environment["PATH"] = f"{Path(program('shoal')).parent}:{environment['PATH']}"
    return Shell(installation.root, environment, replace, hooks)


def serve_first_model(installation: Installation, count: int) -> None:
    """Bring an installation to the point where `count` devices serve model 1."""
    if installation.server is None:
        installation.start_server()
    installation.shoal("keys", "init", "--out", str(installation.keys), "--family", "digits")
    installation.publish("v1", "1")
    installation.enrol(count)
    for device in installation.devices.values():
        device.start()
    installation.shoal("cohort", "create", "everywhere", "--selector", "site=demo")

    def all_online() -> bool:
        for device in installation.devices.values():
            device.require_running()
        shown = installation.get("/devices")["devices"]
        return sum(bool(device["is_online"]) for device in shown) == count

    wait_until(all_online, "all devices online", 90)
    roll_out(installation, "first", "1")
