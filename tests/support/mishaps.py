"""What befalls a fleet of real and simulated devices at random: kills, outages, restarts."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from fleet import wait_until
from support.simulated.handle import Simulation

if TYPE_CHECKING:
    from fleet import Device, Installation
    from support.stolen_broker import StolenBroker

KINDS: Final = ("core", "worker", "broker", "control plane", "simulated devices", "outage")
_GAP_S: Final = (0.2, 0.8)
_DOWN_S: Final = (0.1, 0.6)
_START_S_MAX: Final = 90.0


class Mishaps:
    """Lets one thing after the other go wrong, and right again; `killed` counts by kind."""

    def __init__(
        self,
        site: Installation,
        broker: StolenBroker,
        simulated: Simulation,
        rng: random.Random,
        every_s: float,
    ) -> None:
        self.simulated = simulated
        self.killed = dict.fromkeys(KINDS, 0)
        self._site = site
        self._broker = broker
        self._rng = rng
        self._every_s = every_s

    def befall(self, count: int) -> None:
        """Let every kind happen about as often, in random order, at random instants."""
        kinds = [KINDS[place % len(KINDS)] for place in range(count)]
        self._rng.shuffle(kinds)
        for kind in kinds:
            time.sleep(self._rng.uniform(*_GAP_S))
            self.killed[kind] += 1
            {
                "core": self._core,
                "worker": self._worker,
                "broker": self._restart_broker,
                "control plane": self._control_plane,
                "simulated devices": self._simulated,
                "outage": self._outage,
            }[kind]()

    def _core(self) -> None:
        device = self._device()
        assert device.core is not None
        device.core.kill()
        self._wait()
        device.start()

    def _worker(self) -> None:
        if (pid := self._device().worker_pid()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _restart_broker(self) -> None:
        self._broker.kill()
        self._wait()
        self._broker.run()

    def _control_plane(self) -> None:
        assert self._site.server is not None
        self._site.server.kill()
        self._wait()
        self._site.start_server()

    def _simulated(self) -> None:
        former = self.simulated
        former.kill()
        self.simulated = Simulation(self._site.logs / "simulated.log", self._site.environment)
        self.simulated.resume(former)
        self.simulated.tell("start", over_s=0.5, within_s=0.0)
        self.simulated.tell("answer", every_s=self._every_s)

    def _outage(self) -> None:
        names = [each["device"] for each in self.simulated.tell("tally")["devices"]]
        struck = self._rng.sample(names, len(names) // 3)
        self.simulated.tell("hold", devices=struck, is_held=True)
        self._wait()
        self.simulated.tell("hold", devices=struck, is_held=False)

    def _device(self) -> Device:
        device = self._rng.choice(list(self._site.devices.values()))
        wait_until(device.serves, f"{device.id} serves", _START_S_MAX)
        return device

    def _wait(self) -> None:
        time.sleep(self._rng.uniform(*_DOWN_S))
