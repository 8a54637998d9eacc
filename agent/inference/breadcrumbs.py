"""What each interpreter is at, in a mapped file that outlives the process: one lane for each.

A store to a shared mapping survives SIGKILL and SIGSEGV without any system call. What a lane means
after a death is `deaths`' affair. A file of an earlier boot says nothing: pages of it may be older
than the power cut.

    0..63 magic and boot id    then lanes of 128 bytes: act, family, model, input
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from agent.inference.quantization import Stored
from firmware_bundles.errors import ModelUnusable

NAME: Final = "breadcrumbs"

_MAGIC: Final = b"shoal breadcrumbs 1 "
_HEAD_BYTES: Final = 64
_LANE_BYTES: Final = 128
_LANES: Final = 1279  # 16 families of 64 interpreters, some of them twice while they are swapped
_LANE: Final = struct.Struct("<B31s32s32s")
_INPUT: Final = slice(64, 96)
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOAD_PATIENCE: Final = 10
_NO_INPUT: Final = bytes(32)
_WHOLE_BYTES_MAX: Final = 8192
_ROW_BYTES: Final = 2048
# Any that stay the same from one process to the next, and look like chance.
_FACTORS: Final = np.frombuffer(
    hashlib.shake_128(b"shoal breadcrumbs").digest(2 * _ROW_BYTES), dtype=np.uint64
)


class Act(IntEnum):
    """What may take a worker down."""

    NOTHING = 0
    INVOKING = 1
    STARTING = 2
    SWAPPING = 3


class Crumb(NamedTuple):
    """A lane as a dead process left it; digests are hexadecimal, `input` empty while loading."""

    act: Act
    family: str
    model: str
    input: str


class Lane:
    """The place of one interpreter."""

    def __init__(self, view: memoryview, family: str, model: str) -> None:
        self.family = family
        self.is_given_up = False
        self._act = Act.NOTHING
        self._since = 0.0
        self._view = view
        named = _LANE.pack(Act.NOTHING, family.encode(), bytes.fromhex(model), _NO_INPUT)
        view[: len(named)] = named

    def begin(self, act: Act, digest: bytes = _NO_INPUT) -> None:
        """Note what begins now; the act comes last, so that it is never seen without its input."""
        self._view[_INPUT] = digest
        self._since = time.monotonic()
        self._view[0] = self._act = act

    def end(self) -> None:
        """Note that it ended, well or with an error: the process lives."""
        self._view[0] = self._act = Act.NOTHING

    def inference_s(self, now: float) -> float:
        """Return how long an inference goes on; of a load only a tenth, for it proves a lot.

        Nobody waits any more for one that is given up.
        """
        if self._act is Act.NOTHING or self.is_given_up:
            return 0.0
        seconds = now - self._since
        return seconds if self._act is Act.INVOKING else seconds / _LOAD_PATIENCE


class Breadcrumbs:
    """The lanes of this process; `left` is what the one before was at when it died."""

    def __init__(self, path: Path) -> None:
        """Read what is left, and begin anew; on a full disk, in memory that nobody reads after."""
        size = _HEAD_BYTES + _LANES * _LANE_BYTES
        self._map = _mapped(path, size)
        head = _MAGIC + boot_id().encode()
        is_ours = self._map[: len(head)] == head
        self.left = list(_crumbs(bytes(self._map))) if is_ours else []
        self._map[:] = head.ljust(size, b"\0")
        self._free = list(range(_LANES))
        self._taken: dict[int, Lane] = {}

    def lane(self, family: str, model: str) -> tuple[Lane, Callable[[], None]]:
        """Return a lane of its own for a model, and what gives it back. Raises ModelUnusable."""
        if not self._free:
            raise ModelUnusable(f"there are {_LANES} interpreters, and no room for one more")
        place = self._free.pop()
        start = _HEAD_BYTES + place * _LANE_BYTES
        lane = Lane(memoryview(self._map)[start : start + _LANE_BYTES], family, model)
        self._taken[place] = lane

        def give_back() -> None:
            if self._taken.pop(place, None) is not None:
                lane.end()
                self._free.append(place)

        return lane, give_back

    def lane_of(self, owner: object, family: str, model: str) -> Lane:
        """Return a lane that is given back when its owner is freed. Raises ModelUnusable."""
        lane, give_back = self.lane(family, model)
        weakref.finalize(owner, give_back)
        return lane

    @contextmanager
    def loading(self, act: Act, family: str, model: str) -> Iterator[None]:
        """Note that a model is being loaded and proved."""
        lane, give_back = self.lane(family, model)
        lane.begin(act)
        try:
            yield
        finally:
            give_back()

    def lanes(self) -> frozenset[Lane]:
        """Return all that are in use."""
        return frozenset(self._taken.copy().values())

    def longest(self, now: float) -> tuple[str, float]:
        """Return the family of the longest inference that goes on, and its seconds until now."""
        busy = [(lane.inference_s(now), lane.family) for lane in self._taken.copy().values()]
        seconds, family = max(busy, default=(0.0, ""))
        return family, seconds

    def clear(self) -> None:
        """Forget all: this process ends in order."""
        for lane in self._taken.copy().values():
            lane.end()


def boot_id() -> str:
    """Return what is another after each boot."""
    return _BOOT_ID.read_text().strip()


def _mapped(path: Path, size: int) -> mmap.mmap:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return mmap.mmap(-1, size)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a store to a hole on a full disk is a SIGBUS
        return mmap.mmap(descriptor, size)
    except OSError:
        return mmap.mmap(-1, size)
    finally:
        os.close(descriptor)


def digest(inputs: Sequence[Stored]) -> bytes:
    """Return what an input is known by: the SHA-256 of all that the model is given.

    Of a large tensor, of sums of it: each row of words times fixed factors, modulo 2**64. Two that
    differ have the same sums in one case of 2**32 (multilinear hashing, Lemire and Kaser 2014).
    SHA-256 of a whole image takes an eighth as long as a small network's inference.
    """
    hashed = hashlib.sha256()
    for values in inputs:
        if values.nbytes <= _WHOLE_BYTES_MAX:
            hashed.update(values.tobytes())
            continue
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        rows = len(flat) // _ROW_BYTES
        words = flat[: rows * _ROW_BYTES].view(np.uint32).reshape(rows, -1)
        hashed.update(np.einsum("ij,j->i", words, _FACTORS))
        hashed.update(flat[rows * _ROW_BYTES :].tobytes())
    return hashed.digest()


def _crumbs(data: bytes) -> Iterator[Crumb]:
    for start in range(_HEAD_BYTES, len(data), _LANE_BYTES):
        act, family, model, given = _LANE.unpack_from(data, start)
        if act in tuple(Act) and act != Act.NOTHING:
            named = family.rstrip(b"\0").decode("ascii", "replace")
            told = given.hex() if act == Act.INVOKING else ""
            yield Crumb(Act(act), named, model.hex(), told)
