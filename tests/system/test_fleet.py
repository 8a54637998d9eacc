"""A fleet of real and simulated devices, and everything dies at random: nothing is lost."""

from __future__ import annotations

import json
import random
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from feeder import Feeder, Images
from firmware_bundles.sketches import codec as sketch_codec
from fleet import SAMPLES, Installation, remove, wait_until
from processes import ProgramError
from support import exactly_once
from support.echo import Echo
from support.installations import FIRST, publish
from support.mishaps import KINDS, Mishaps
from support.simulated.behaviour import Behaviour, Dealt
from support.simulated.durable import ANSWERED
from support.simulated.handle import Simulation
from support.stolen_broker import StolenBroker

_SEED = 20_261_121
_EVERY_S = 0.08
_SETTINGS = {"hello_jitter_s": 0.2, "hello_retry_s": 3.0, "chunk_stall_s": 2.0}
_CATCH_UP_S_MAX = 60.0


class Fleet:
    """An installation with a broker of its own, real devices, and simulated ones."""

    def __init__(self, real: int, simulated: int, rng: random.Random) -> None:
        self.broker = StolenBroker()
        root = Path(tempfile.mkdtemp(prefix="shoal-test-"))
        self.site = site = Installation(root, broker=self.broker.url)
        self._counts = real, simulated
        self._rng = rng
        self.feeder = Feeder(Images.load(SAMPLES / "feed.npz"), rate_hz=15.0, label_every=10)
        self.mishaps: Mishaps | None = None
        self.echo: Echo | None = None
        self._first = Simulation(site.logs / "simulated.log", site.environment)

    def start(self) -> None:
        """Bring all devices to where they answer with model 1."""
        site, (real, simulated) = self.site, self._counts
        site.settings["SHOAL_PATCH_BYTES_MAX"] = "0"
        site.start_server()
        self.broker.start(site)
        site.shoal("keys", "init", "--out", str(site.keys), "--family", "digits")
        publish(site, "v1", "1")
        site.enrol(real)
        mix = [Dealt(share=0.5, behaviour=Behaviour(is_restless=True))]
        self._first.enrol(
            site, simulated, seed=_SEED, mix=mix, labels={"site": "demo"},
            is_durable=True, settings=_SETTINGS,
        )  # fmt: skip
        for device in site.devices.values():
            device.start(SHOAL_AGENT_TELEMETRY_RETRY_S="3", SHOAL_AGENT_HELLO_JITTER_S="0.2")
        self._first.tell("start", over_s=0.5, within_s=30.0)
        site.post("/cohorts", json.dumps({"name": "everywhere", "selector": "site=demo"}))
        wait_until(lambda: self._online() == real + simulated, "all devices online", 90)
        site.post("/rollouts", FIRST.format(id="first", release="1"))
        wait_until(self._is_rolled_out, "the first rollout", 90)
        self.echo = Echo(self.broker.thief_port, self._rng)
        self.mishaps = Mishaps(site, self.broker, self._first, self._rng, _EVERY_S)

    def _is_rolled_out(self) -> bool:
        return bool(self.site.get("/rollouts/first")["state"] == "completed")

    def _online(self) -> int:
        return sum(bool(each["is_online"]) for each in self.site.get("/devices")["devices"])

    def feed(self) -> None:
        """Let all devices answer."""
        self.feeder.start({each.id: each.socket for each in self.site.devices.values()})
        self._first.tell("answer", every_s=_EVERY_S)

    def hush(self) -> None:
        """Let no device answer any more."""
        assert self.mishaps is not None
        self.feeder.stop()
        self.mishaps.simulated.tell("hush")

    def answered(self) -> dict[str, list[str]]:
        """Return the ids of all answers that somebody got, by device."""
        found = {name: tally.answered for name, tally in self.feeder.tallies.items()}
        for file in (self.site.root / "simulated" / "spool").glob(f"*/{ANSWERED}"):
            found[file.parent.name] = file.read_text().splitlines()
        return found

    def lacking(self) -> dict[str, str]:
        """Say what has not arrived of what was answered, by device; windows count, too."""
        stored = exactly_once.read(self.site.data)
        found = {
            name: exactly_once.lacking(stored.get(name), ids)
            for name, ids in self.answered().items()
        }
        return {name: told for name, told in found.items() if told}

    def stop(self) -> None:
        """End everything."""
        self.feeder.stop()
        if self.echo is not None:
            self.echo.close()
        (self.mishaps.simulated if self.mishaps else self._first).close()
        self.site.stop()
        self.broker.stop()
        remove(self.site.root)


@pytest.mark.needs("mosquitto")
@pytest.mark.timeout(600)
def test_every_answer_is_counted_once_whatever_dies(is_long_run: bool) -> None:  # noqa: FBT001
    """Core, worker, broker, control plane and simulated devices die; lines repeat and reorder."""
    print(f"seed {_SEED}")
    real, simulated, mishaps = (5, 45, 60) if is_long_run else (2, 8, len(KINDS))
    fleet = Fleet(real, simulated, random.Random(_SEED))
    try:
        fleet.start()
        fleet.feed()
        assert fleet.mishaps is not None
        fleet.mishaps.befall(mishaps)
        fleet.hush()
        with suppress(ProgramError):
            wait_until(lambda: not fleet.lacking(), "all is there", _CATCH_UP_S_MAX)
        assert fleet.lacking() == {}
        assert fleet.echo is not None
        assert fleet.echo.said > 0
        _require_truth(fleet)
    finally:
        fleet.stop()


def _require_truth(fleet: Fleet) -> None:
    assert fleet.mishaps is not None
    kills = fleet.mishaps.killed["simulated devices"]
    file = fleet.site.root / "bundles" / "1" / "baseline.msgpack"
    baseline = sketch_codec.parse_baseline(file.read_bytes())
    simulated = fleet.mishaps.simulated.tell("tally")["devices"]
    numbers = {each["device"]: each["number"] for each in simulated}
    stored, answered = exactly_once.read(fleet.site.data), fleet.answered()
    assert stored.keys() == answered.keys()
    wrong = {}
    for name, found in stored.items():
        tally = fleet.feeder.tallies.get(name)
        unanswered = tally.unanswered if tally else kills
        broken = exactly_once.broken(found, answered[name], unanswered)
        if name in numbers:
            broken += exactly_once.unlike(found, numbers[name], baseline)
        if broken:
            wrong[name] = broken
        assert len(answered[name]) > 20
    assert wrong == {}
