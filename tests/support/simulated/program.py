"""A process full of simulated devices: `python -m support.simulated.program`, told what to do.

Commands come as JSON objects, one a line, on standard input; each is answered by one object on
standard output. `handle` is the other side.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from agent.config import Config
from agent.telemetry import sealing
from agent.telemetry.sealing import Model, Window
from firmware_bundles import manifest
from firmware_bundles.sketches import codec as sketch_codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.wire.messages import Serving
from support.simulated import enrolling
from support.simulated.behaviour import Dealt, deal
from support.simulated.contents import Library
from support.simulated.device import Shared, SimulatedDevice
from support.simulated.notary import Notary

_TICK_S: Final = 2.0
_POLL_S: Final = 0.1

Facts = dict[str, Any]


class Fleet:
    """All devices of this process, and what is asked of them together."""

    def __init__(self) -> None:
        self.devices: list[SimulatedDevice] = []
        self._library: Library = {}
        self._baselines: dict[str, tuple[bytes, Baseline]] = {}
        self._pooled: dict[str, Sketch] = {}
        self._answering: list[asyncio.Task[None]] = []
        self._ticking: asyncio.Task[None] | None = None

    async def enrol(self, *, server: str, token: str, ca: str, count: int, make: Facts) -> Facts:
        """Enrol devices with one token, and make them: see `_make`."""
        folder = Path(make["folder"])
        began = time.monotonic()
        members = await enrolling.enrol(server, token, Path(ca), folder / "keys", count)
        enrolled_s = time.monotonic() - began
        self._make(members, **make)
        return {"devices": [each.device for each in members], "seconds": enrolled_s}

    async def resume(self, *, make: Facts) -> Facts:
        """Take up the devices that an earlier process enrolled: a restart of all of them."""
        places = sorted((Path(make["folder"]) / "keys").iterdir())
        members = [enrolling.load(place) for place in places]
        self._make(members, **make)
        return {"devices": [each.device for each in members]}

    def _make(
        self,
        members: list[enrolling.Member],
        *,
        folder: str,
        seed: int,
        mix: list[Facts],
        is_durable: bool = False,
        settings: Facts | None = None,
    ) -> None:
        root = Path(folder)
        config = Config(state_dir=root, run_dir=root, **(settings or {}))
        spool = root / "spool" if is_durable else None
        shared = Shared(config, Notary(root / "trust"), self._library, seed, spool)
        behaviours = deal(len(members), msgspec.convert(mix, list[Dealt]), seed)
        for number, (member, behaviour) in enumerate(zip(members, behaviours, strict=True)):
            self.devices.append(SimulatedDevice(member, number, behaviour, shared))

    async def start(self, *, over_s: float, within_s: float) -> Facts:
        """Let all devices connect, spread over a span; wait for the last one."""
        began = time.monotonic()
        for device in self.devices:
            device.start(over_s)
        self._ticking = asyncio.create_task(self._tick())
        await _until(lambda: all(each.line.is_up for each in self.devices), within_s)
        return {"up": sum(each.line.is_up for each in self.devices),
                "seconds": time.monotonic() - began}  # fmt: skip

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            for device in self.devices:
                device.tick()

    async def windows(self, *, count: int, over_s: float) -> Facts:
        """Let each device that serves a model seal so many windows, spread over a span."""
        await asyncio.gather(*(self._seal(each, count, over_s) for each in self.devices))
        return {"sealed": sum(each.outbox.sealed for each in self.devices)}

    async def _seal(self, device: SimulatedDevice, count: int, over_s: float) -> None:
        for number in range(count):
            await asyncio.sleep(over_s / count * ((device.number % 97) / 97 if not number else 1))
            serving = _serving(device)
            if serving is None:
                continue
            _, baseline = self._baseline(serving.digest)
            rows = baseline.window_rows
            first = device.outbox.sealed * rows + 1
            sketch = device.traffic.sketch(baseline, np.arange(first, first + rows), number)
            now = time.time()
            model = Model("digits", serving.digest, baseline)
            window = Window(model, first, first + rows - 1, now - 1, now, sketch)
            device.outbox.add(
                sealing.window_segment(device.incarnation, sealing.checkpoint(window))
            )
            self._pooled.setdefault(serving.digest, Sketch(baseline)).merge(sketch)

    def _baseline(self, digest: str) -> tuple[bytes, Baseline]:
        if digest not in self._baselines:
            facts = manifest.parse(self._library[digest])
            entry = facts.file(facts.baseline or "")
            body = b"".join(self._library[chunk] for chunk in entry.chunks)
            self._baselines[digest] = body, sketch_codec.parse_baseline(body)
        return self._baselines[digest]

    async def answer(self, *, every_s: float) -> Facts:
        """Let each device answer again and again, until `hush`."""
        self._answering += [
            asyncio.create_task(self._answer(each, every_s)) for each in self.devices
        ]
        return {}

    async def _answer(self, device: SimulatedDevice, every_s: float) -> None:
        while device.durable is not None:
            if (serving := _serving(device)) is not None:
                device.durable.answer("digits", serving.digest, *self._baseline(serving.digest))
            await asyncio.sleep(every_s)

    async def hush(self) -> Facts:
        """Answer no more."""
        for task in self._answering:
            task.cancel()
        return {}

    async def settle(self, *, within_s: float) -> Facts:
        """Wait until every segment was acknowledged, and every deployment ended."""
        await _until(lambda: not any(each.waiting for each in self.devices), within_s)
        return {"waiting": sum(each.waiting for each in self.devices)}

    async def hold(self, *, devices: list[str], is_held: bool) -> Facts:
        """Take the network of some devices away, or give it back."""
        for device in self.devices:
            if device.member.device in devices:
                device.hold(is_held=is_held)
        return {}

    async def tally(self) -> Facts:
        """Say what every device did, and what all of them saw together."""
        refused: Counter[str] = Counter()
        for device in self.devices:
            refused.update(device.refused)
        return {
            "devices": [_facts(each) for each in self.devices],
            "refused": dict(refused),
            "pooled": {
                model: base64.b64encode(sketch_codec.encode_sketch(sketch)).decode()
                for model, sketch in self._pooled.items()
            },
        }

    async def stop(self) -> Facts:
        """Let all devices leave."""
        await self.hush()
        if self._ticking is not None:
            self._ticking.cancel()
        await asyncio.gather(*(each.stop() for each in self.devices))
        return {}


def _serving(device: SimulatedDevice) -> Serving | None:
    family = device.deployments.families.get("digits")
    return family.serving if family else None


def _facts(device: SimulatedDevice) -> Facts:
    record, serving, outbox = device.record, _serving(device), device.outbox
    return {
        "device": device.member.device,
        "number": device.number,
        "incarnation": device.incarnation,
        "is_up": device.line.is_up,
        "is_silent": device.behaviour.is_silent,
        "counter": device.statements.counter,
        "generation": record.generation if record else 0,
        "state": record.state.value if record else None,
        "chunk_bytes": record.transfer.chunk_bytes if record and record.transfer else 0,
        "serving": serving.digest if serving else None,
        "sealed": outbox.sealed,
        "sent": outbox.sent,
        "delivered": outbox.delivered,
        "refused": outbox.refused,
        "wire_bytes": device.wire_bytes,
    }


async def _until(holds: Callable[[], bool], within_s: float) -> None:
    for _ in range(round(within_s / _POLL_S)):
        if holds():
            return
        await asyncio.sleep(_POLL_S)


async def main() -> None:
    """Obey until the input ends."""
    fleet = Fleet()
    verbs: dict[str, Callable[..., Awaitable[Facts]]] = {
        each.__name__: each
        for each in (
            fleet.enrol, fleet.resume, fleet.start, fleet.windows, fleet.answer, fleet.hush,
            fleet.settle, fleet.hold, fleet.tally, fleet.stop,
        )
    }  # fmt: skip
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        answer = await verbs[command.pop("do")](**command)
        print(json.dumps(answer), flush=True)
    await fleet.stop()


if __name__ == "__main__":
    asyncio.run(main())
