"""Mirrors a sampled share of live inputs to a shadow, and records what it answered.

It never waits: a row that finds no place is dropped and counted. What was answered is looked at
rarely, and recorded all at once, so that few requests find the loop's thread busy. Pairs are told
by the sequence of the live prediction, so that the control plane compares answers, pace and, with
labels, errors.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.deployment.slots import Slot
from agent.inference import children, ring, served, shadow
from agent.inference.control import Refusal, ShadowReady, ShadowStatus, parse_line
from agent.inference.quantization import DTYPES, REAL, Reals
from agent.inference.ring import Ring, Shape
from agent.inference.served import Bundle, ServedModel
from agent.inference.tensors import Taken
from agent.telemetry.answers import Answers
from agent.telemetry.recorder import Recorder
from firmware_bundles.errors import Malformed, SelfTestFailed, from_code
from firmware_bundles.manifest import Tensor

_START_S_MAX: Final = 60.0
_LAST_ANSWERS_S_MAX: Final = 1.0


class Mirror:
    """One shadow of one family. Made by `start`; `offer` is called with every answer."""

    def __init__(
        self, live: ServedModel, bundle: Bundle, share: float, recorder: Recorder, shape: Shape
    ) -> None:
        self.live = live
        self.digest = bundle.digest
        self.reason = ""
        self._share = share
        self._recorder = recorder
        self._recording = recorder.use(bundle.slot.family, bundle.digest, b"", None)
        self._descriptor = ring.make()
        self._ring = Ring(self._descriptor, shape)
        self._times_us: NDArray[np.int64] = np.zeros(self._ring.places, dtype=np.int64)
        self._sequences: NDArray[np.int64] = np.zeros(self._ring.places, dtype=np.int64)
        self._live_class: NDArray[np.int32] = np.zeros(self._ring.places, dtype=np.int32)
        self._live_scores: Reals = np.zeros_like(self._ring.scores)
        self._put = self._collected = self._answered = 0
        self._rows = self._dropped = self._errors = self._agreed = 0
        self._difference_sum = 0.0
        self._latency_us_sum = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._random = random.Random().random  # noqa: S311 - it samples
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, state_dir: Path, slot: Slot, shape: Shape) -> None:
        """Start the shadow and wait until it has proved its model. Raises SelfTestFailed, ..."""
        self._child = child = await asyncio.create_subprocess_exec(
            *shadow.COMMAND,
            *(str(state_dir), slot.family, slot.name),
            *(str(int(each)) for each in (self._descriptor, *shape)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(self._descriptor,),
            env=children.BARE_ENVIRONMENT,
        )
        assert child.stdout is not None
        try:
            async with asyncio.timeout(_START_S_MAX):
                answer = parse_line(await child.stdout.readline())
        except (TimeoutError, ValueError, Malformed) as error:  # too long a line is a ValueError
            await self.stop()
            raise SelfTestFailed(f"the shadow did not start: {self._end()}") from error
        except asyncio.CancelledError:
            await self.stop()
            raise
        if isinstance(answer, Refusal):
            await self.stop()
            raise from_code(answer.code, answer.message, answer.hint)
        if not isinstance(answer, ShadowReady) or answer.digest != self.digest:
            await self.stop()
            raise SelfTestFailed("the shadow has another model than the slot")
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._collecting())]

    async def stop(self) -> None:
        """End the shadow; what it was given and does not answer in time is dropped."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._child is not None:
            await _finish(self._child)
        self._look()  # it has ended: what it stored is there
        self._collect()
        self._dropped += self._put - self._collected
        self._collected = self._answered = self._put

    def offer(self, sequence: int, taken: Taken, predicted: int, scores: Reals) -> None:
        """Mirror the input of this answer if it is its turn and there is room."""
        if self._random() >= self._share or self.reason:
            return
        if self._put - self._collected >= self._ring.places:
            self._dropped += 1
            return
        place = self._put % self._ring.places
        self._ring.write(place, taken.stored if self._ring.is_stored else [taken.features()])
        # When it was asked, not when it is recorded: a label of the input may come in between, and
        # who looks for one looks no further back.
        self._times_us[place] = time.time_ns() // 1000
        self._sequences[place] = sequence
        self._live_class[place] = predicted
        self._live_scores[place] = scores
        self._put += 1
        self._ring.put = self._put

    def status(self) -> ShadowStatus:
        """Return what was compared until now; `reason` says why it is over."""
        return ShadowStatus(
            digest=self.digest,
            rows=self._rows,
            dropped=self._dropped,
            errors=self._errors,
            agreed=self._agreed,
            score_difference_sum=self._difference_sum,
            latency_us_sum=self._latency_us_sum,
            reason=self.reason,
        )

    async def _collecting(self) -> None:
        while True:
            await asyncio.sleep(self._ring.pause_s)
            self._collect()

    def _collect(self) -> None:
        """Record what had been answered at the last look, and give its places back."""
        if self._collected < self._answered:
            self._record(np.arange(self._collected, self._answered) % self._ring.places)
        self._collected = self._answered
        self._look()

    def _look(self) -> None:
        # The counter is the shadow's: not more is believed than was put in, nor less than before.
        self._answered = max(self._answered, min(self._ring.answered, self._put))

    def _record(self, places: NDArray[np.int64]) -> None:
        ring = self._ring
        good = places[ring.predicted[places] != shadow.FAILED]
        self._errors += len(places) - len(good)
        if not len(good):
            return
        mirrored = Answers(
            sequence=self._sequences[good],
            time_us=self._times_us[good],
            predicted=ring.predicted[good].astype(np.int64),
            latency_us=ring.latency_us[good].astype(np.int64),
            segment=np.zeros(len(good), dtype=np.int64),
            scores=ring.scores[good],
        )
        self._rows += len(good)
        self._agreed += int(np.count_nonzero(mirrored.predicted == self._live_class[good]))
        difference = np.abs(mirrored.scores - self._live_scores[good])
        self._difference_sum += float(difference.max(axis=1, initial=0.0).sum(dtype=np.float64))
        self._latency_us_sum += int(mirrored.latency_us.sum())
        self._recorder.shadows(self._recording, mirrored)

    async def _watch(self) -> None:
        assert self._child is not None
        await self._child.wait()
        self.reason = f"the shadow ended: {self._end()}"

    def _end(self) -> str:
        status = self._child.returncode if self._child else None
        return signal.Signals(-status).name if status and status < 0 else f"status {status}"


async def _finish(child: asyncio.subprocess.Process) -> None:
    """Let a shadow give its last answers, and not more time than that takes."""
    try:
        with suppress(ProcessLookupError):
            child.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS_S_MAX):
                await child.wait()
    finally:
        await children.end(child)


def shape_of(live: ServedModel, inputs: Sequence[Tensor]) -> Shape:
    """Return how long the rows of this model are, mirrored to one with these inputs.

    What the model stores goes as it is where the other stores real values alike.
    """
    is_stored = all(
        (port.tensor.datatype, port.tensor.scale, port.tensor.zero_point)
        == (other.datatype, other.scale, other.zero_point)
        for port, other in zip(live.inputs, inputs, strict=True)
    )
    input_bytes = sum(
        port.size * (port.dtype if is_stored else DTYPES[REAL]).itemsize for port in live.inputs
    )
    scores = 0 if live.scores_place is None else live.outputs[live.scores_place].size
    return Shape(input_bytes, scores, is_stored)


async def start(
    state_dir: Path,
    live: ServedModel,
    slot: Slot,
    share: float,
    recorder: Recorder,
    on_event: Callable[..., None],
) -> Mirror:
    """Let the model of `slot` be the shadow of the one that serves.

    Raises SelfTestFailed where both cannot be compared or the shadow does not start, SlotBroken.
    """
    bundle = await asyncio.to_thread(served.open_bundle, slot)
    wanted = [tuple(each.shape) for each in live.manifest.inputs]
    if [tuple(each.shape) for each in bundle.manifest.inputs] != wanted:
        raise SelfTestFailed("the shadow takes other inputs than the model that serves")
    if bundle.labels != live.bundle.labels:
        raise SelfTestFailed("the shadow knows other classes than the model that serves")
    shape = shape_of(live, bundle.manifest.inputs)
    mirror = Mirror(live, bundle, share, recorder, shape)
    await mirror.start(state_dir, slot, shape)
    on_event("shadow_started", family=slot.family, version=bundle.manifest.version, share=share)
    return mirror
