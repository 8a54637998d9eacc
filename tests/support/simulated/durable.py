"""Predictions of a simulated device by the agent's own recorder, buffer and forwarder, on a disk.

Only the interpreter is missing: an answer is made up. As an application's, its id goes to a file
that no death of this process takes back, once the recorder has taken it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from agent import log
from agent.store import buffer
from agent.store.buffer import Buffer
from agent.telemetry.forwarder import Forwarder
from agent.telemetry.recorder import Pace, Recorder
from firmware_bundles.sketches.baseline import Baseline
from support.simulated.enrolling import Member
from support.simulated.traffic import Traffic

ANSWERED = "answered"
_BUFFER = "buffer.db"
_PACE = Pace(flush_s=0.2, segment_age_s=0.7, window_age_s=3.0)
_RETRY_S = 3.0


class Durable:
    """One incarnation of a device's recorder and forwarder; a later one finds what it left."""

    def __init__(
        self,
        folder: Path,
        member: Member,
        traffic: Traffic,
        incarnation: str,
        send: Callable[[str, bytes], bool],
    ) -> None:
        self._traffic = traffic
        self._made = 0
        self._stop = asyncio.Event()
        path = folder / _BUFFER
        self._looking = Buffer(path)  # a connection is for one thread
        self._recorder = Recorder(folder, Buffer(path), incarnation, _PACE, log.event)
        self._forwarder = Forwarder(path, member.device, member.secret, send, retry_s=_RETRY_S)
        self._answered = os.open(folder / ANSWERED, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.acknowledged = self._forwarder.acknowledged
        self.connection_changed = self._forwarder.connection_changed

    @staticmethod
    def prepare(folder: Path, template: Path) -> None:
        """Make a buffer as `agent.store.buffer` does; its child is run once for all devices."""
        folder.mkdir(parents=True, exist_ok=True)
        buffer.ensure(template)
        if not (folder / _BUFFER).exists():
            shutil.copy(template, folder / _BUFFER)

    @property
    def waiting(self) -> int:
        """How many segments are not acknowledged; rows that no segment holds count as one."""
        return self._looking.facts().segments + self._recorder.has_unsealed

    def answer(self, family: str, model: str, file: bytes, baseline: Baseline) -> None:
        """Answer once more with the model that serves; `file` is its baseline, too."""
        recording = self._recorder.use(family, model, file, baseline)
        self._made += 1
        rows = self._traffic.rows(np.array([self._made]))
        name = self._recorder.prediction(
            recording,
            predicted=int(rows.scores[0].argmax()),
            latency_us=150,
            scores=rows.scores[0],
            features=lambda: rows.features[0],
        )
        self._recorder.write()  # as the worker does, before an answer leaves
        os.write(self._answered, f"{name}\n".encode())

    async def run(self) -> None:
        """Record and forward until `stop`."""
        await asyncio.gather(self._recorder.run(self._stop), self._forwarder.run(self._stop))

    def stop(self) -> None:
        """Seal what there is, and end."""
        self._stop.set()
