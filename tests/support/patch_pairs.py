"""Pairs of model files to measure patches with: trained ones, and larger ones that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from support.bundles import SAMPLES

TRAINED = Path(__file__).parents[1] / "vectors" / "patches"
Draw = np.random.Generator
Weights = NDArray[np.int8]

_INT8_COUNT = 2_000_000
_HEAD_SHARE = 0.03


class Pair(NamedTuple):
    """A file that a device has, and the one it shall have."""

    name: str
    source: bytes
    target: bytes


def trained() -> Iterator[Pair]:
    """Yield pairs of real int8 digits models of 21 kB (firmware_bundles/samples/digits/tune.py)."""
    base = (TRAINED / "base.tflite").read_bytes()
    yield Pair("trained: new head", base, (TRAINED / "head.tflite").read_bytes())
    yield Pair("trained: fine-tuned", base, (TRAINED / "tuned.tflite").read_bytes())
    v1, v2 = ((SAMPLES / name / "model.tflite").read_bytes() for name in ("v1", "v2"))
    yield Pair("trained: samples v1 to v2, both from scratch", v1, v2)


def made_up() -> Iterator[Pair]:
    """Yield pairs of 2 MB that are no models: normal int8 or float32 weights, then changed."""
    draw = np.random.default_rng(1)
    weights = _int8(draw, _INT8_COUNT)
    base = weights.tobytes()
    yield Pair("made up: new head of 3 %", base, _with_new_head(weights, draw))
    moved = weights + (draw.random(_INT8_COUNT) < 0.3) * draw.choice([-1, 1], _INT8_COUNT)
    yield Pair("made up: 30 % of weights by one step", base, moved.astype(np.int8).tobytes())
    moved = np.clip(weights + draw.normal(0, 1.5, _INT8_COUNT).round(), -128, 127)
    yield Pair("made up: all weights by some steps", base, moved.astype(np.int8).tobytes())
    shifted = base[: _INT8_COUNT // 3] + b"one more string" + base[_INT8_COUNT // 3 :]
    yield Pair("made up: 15 bytes inserted", base, shifted)
    reals = draw.normal(0, 0.05, _INT8_COUNT // 4).astype(np.float32)
    tuned = (reals * (1 + draw.normal(0, 1e-3, len(reals)))).astype(np.float32)
    yield Pair("made up: float32, all by 0.1 %", reals.tobytes(), tuned.tobytes())
    yield Pair("made up: unrelated", base, _int8(draw, _INT8_COUNT).tobytes())


def largest() -> Pair:
    """Return the largest file that a bundle may hold, with a new head."""
    draw = np.random.default_rng(2)
    weights = _int8(draw, 48 * 1024 * 1024)
    return Pair("made up: new head of 3 %, 50 MB", weights.tobytes(), _with_new_head(weights, draw))


def _with_new_head(weights: Weights, draw: Draw) -> bytes:
    """Return the weights with the last of them drawn anew."""
    count = int(len(weights) * _HEAD_SHARE)
    return weights[:-count].tobytes() + _int8(draw, count).tobytes()


def _int8(draw: Draw, count: int) -> Weights:
    values = draw.normal(0, 40, count).astype(np.float32)
    return np.clip(values.round(), -128, 127).astype(np.int8)


ALL: tuple[Callable[[], Iterator[Pair]], ...] = (trained, made_up)
