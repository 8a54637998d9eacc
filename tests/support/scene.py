"""One installation under attack: a device that serves model 2, and what is asked of it each time.

Allowed are releases 2, 4 and 5; 1 is below the floor and 3 is withdrawn.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from agent.deployment import slots
from firmware_bundles import manifest
from firmware_bundles.identifiers import target_path
from firmware_bundles.wire import messages
from fleet import Installation, remove, wait_until
from support import installations
from support.attacker import Attacker
from support.stolen_broker import StolenBroker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet import Device

PATIENCE_S: Final = 40.0
_IMAGE: Final = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": [0.5] * 64}
_ROLLOUT: Final = """\
schema: "1.0"
id: {name}
family: digits
release: "{release}"
cohort: attacked
probation_s: 0.5
phases:
  - {{share: 1.0, soak_s: 0.1, timeout_s: {timeout_s}}}
gates:
  installs: {{failed_share_max: 0.0}}
"""


class Scene:
    """Who is attacked, who attacks, and who looks."""

    def __init__(self) -> None:
        # Unix socket paths are short: not below pytest's own folders.
        self.broker = StolenBroker()
        self.installation = Installation(
            Path(tempfile.mkdtemp(prefix="shoal-test-")), broker=self.broker.url
        )
        self.installation.settings["SHOAL_PATCH_BYTES_MAX"] = "0"  # chunks are under attack
        self._asked = 0
        self._rollouts = 0

    def start(self) -> None:
        """Bring it to the point where the device serves model 2."""
        site = self.installation
        site.start_server()
        self.broker.start(site)
        self.thief = Attacker(self.broker.thief_port, site.data)
        site.shoal("keys", "init", "--out", str(site.keys), "--family", "digits")
        self.publish("v1", "1")
        self.publish("v2", "2", min_release=2)
        self.publish("v1", "3")
        self.publish("bad", "4", withdraw=[target_path("digits", "3")])
        self.publish("v1", "5")
        site.enrol(2)
        self.device, self.other = site.devices.values()
        site.shoal("device", "label", self.other.id, "site=elsewhere")
        site.shoal("cohort", "create", "attacked", "--selector", "site=demo")
        self.device.start(SHOAL_AGENT_CHUNK_STALL_S="0.2", SHOAL_AGENT_HELLO_JITTER_S="0")
        wait_until(lambda: bool(self.shown()["is_online"]), "the device is online", 60)
        self.releases = {row["version"]: row for row in site.get("/releases")}
        self.roll_out("2")

    def shown(self, device: Device | None = None) -> dict[str, Any]:
        """Return what the control plane knows of the device."""
        found: dict[str, Any] = self.installation.get(f"/devices/{(device or self.device).id}")
        return found

    # What the owners do.

    def publish(self, sample: str, version: str, **terms: Any) -> None:  # noqa: ANN401
        """Build, sign and publish one of the sample models, without a program for each step."""
        installations.publish(self.installation, sample, version, **terms)

    def renew(self) -> None:
        """Let the owners sign their role again: snapshot and timestamp are signed with it."""
        folder, before = str(self.installation.keys), self.thief.hint()
        self.installation.shoal("release", "floor", "digits", "2", "--keys", folder)
        wait_until(lambda: self.thief.hint() != before, "the new repository", PATIENCE_S)

    def start_rollout(self, release: str, *, timeout_s: float = 60) -> str:
        """Begin to roll a release out to the device; return the rollout's name."""
        self._rollouts += 1
        name = f"r{self._rollouts}"
        text = _ROLLOUT.format(name=name, release=release, timeout_s=timeout_s)
        self.installation.post("/rollouts", text)
        return name

    def await_rollout(self, name: str, state: str) -> dict[str, Any]:
        """Wait until a rollout has come to a state."""
        found: dict[str, Any] = {}

        def has_come() -> bool:
            found.update(self.installation.get(f"/rollouts/{name}"))
            return bool(found["state"] == state)

        try:
            wait_until(has_come, f"rollout {name} {state}", PATIENCE_S)
        except Exception as error:
            raise AssertionError(f"{error}; now it is {found}") from error
        return found

    def roll_out(self, release: str) -> None:
        """Roll a release out, and see it succeed."""
        self.await_rollout(self.start_rollout(release), "completed")

    def settle(self, name: str) -> None:
        """Wait until a rollout has ended, one way or the other, and let model 2 serve again."""
        ends = {"completed", "rolled_back"}
        where = f"/rollouts/{name}"
        wait_until(lambda: self.installation.get(where)["state"] in ends, "its end", PATIENCE_S)
        self.roll_out("2")

    def to_be_fetched(self) -> str:
        """Return a release whose model lies in no slot of the device, whatever came before."""
        places = (slots.slot(self.device.state / "slots", "digits", name) for name in slots.NAMES)
        held = {entry.digest for place in places for entry in slots.listed(place)}
        return next(each for each in ("4", "5") if self.model(each) not in held)

    def model(self, release: str) -> str:
        """Return the digest of a release's model, and of the one chunk that it is."""
        facts = manifest.parse(self.thief.chunk(self.releases[release]["digest"]))
        (digest,) = facts.file("model.tflite").chunks
        return digest

    def serves(self, release: str) -> bool:
        """Whether the device says, signed, that this release answers."""
        return [row["serving_version"] for row in self.shown()["reported"]] == [release]

    def take_back(self, name: str) -> None:
        """Roll a rollout back that got stuck."""
        if self.installation.get(f"/rollouts/{name}")["state"] in {"running", "paused"}:
            self.installation.post(f"/rollouts/{name}/rollback")
        self.await_rollout(name, "rolled_back")

    def rotate(self, *names: str) -> None:
        """Give roles new keys, as their owners do after a theft."""
        for name in names:
            self.installation.shoal("keys", "rotate", name, "--keys", str(self.installation.keys))

    # What the thief needs to know.

    def order(self, release: str, **changed: object) -> messages.Order:
        """Return an order under the generation that follows the device's."""
        row = self.releases[release] | changed
        return messages.Order(
            family="digits",
            generation=1 + max(each["generation"] for each in self.shown()["reported"]),
            model=messages.ModelReference(
                path=row["path"], digest=row["digest"], length=row["length"]
            ),
            rollout="attack",
            arm=messages.Arm.CANDIDATE,
        )

    @contextlib.contextmanager
    def control_plane_stopped(self) -> Iterator[None]:
        """Let the control plane do nothing for a while."""
        assert self.installation.server is not None
        os.kill(self.installation.server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.installation.server.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """Take back what an attack did, also one that went otherwise than it should."""
        try:
            yield
        except BaseException:
            self.thief.restore()
            self.broker.deliver(is_wanted=True)
            raise

    # What the test looks at.

    def refusals(self, code: str) -> int:
        """Return how often the device has refused something with this code, by its log."""
        assert self.device.core is not None
        log = self.device.core.log.read_text()
        return len(re.findall(rf"event=detected code={re.escape(code)} ", log))

    def await_refusal(self, code: str, before: int) -> None:
        """Wait until the device has refused something more with this code."""
        wait_until(lambda: self.refusals(code) > before, f"{code} on the device", PATIENCE_S)

    def admissions(self) -> int:
        """Return how many assignments the device has admitted."""
        assert self.device.core is not None
        return self.device.core.log.read_text().count("event=assignment ")

    def reported(self, code: str) -> int:
        """Return how often the device has refused something, by its own signed reports."""
        counts = {row["code"]: row["count"] for row in self.shown()["detected"]}
        return int(counts.get(code, 0))

    def suspicions(self, code: str, device: Device | None = None) -> int:
        """Return how often the control plane refused what was said in a device's name."""
        counts = {row["code"]: row["count"] for row in self.shown(device)["misconduct"]}
        return int(counts.get(code, 0))

    def version_that_answers(self) -> str:
        """Let the model answer; return its version."""
        transport = httpx.HTTPTransport(uds=str(self.device.socket))
        with httpx.Client(transport=transport, timeout=10) as client:
            answer = client.post("http://shoal/v2/models/digits/infer", json={"inputs": [_IMAGE]})
        assert answer.status_code == httpx.codes.OK, answer.text
        self._asked += 1
        return str(answer.json()["model_version"])

    def counts_each_answer_once(self) -> bool:
        """Whether the control plane has counted exactly the answers that the device gave."""
        rows = self.installation.get("/telemetry/predictions")["devices"]
        received = sum(row["received"] for row in rows)
        assert received <= self._asked, f"{received} counted, {self._asked} answered"
        return bool(received == self._asked)

    def stop(self) -> None:
        """End everything."""
        if hasattr(self, "thief"):
            self.thief.close()
        self.installation.stop()
        self.broker.stop()
        remove(self.installation.root)
