"""Bundles made from the committed samples without the owners' build command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.deployment import slots
from agent.deployment.seals import Mark
from firmware_bundles import chunks, golden, manifest
from firmware_bundles.manifest import Classification, FileEntry, Golden, Manifest, Tensor
from firmware_bundles.sketches import baseline, codec
from support import filled

SAMPLES = Path(__file__).parents[2] / "firmware_bundles" / "samples" / "digits"
INPUT = Tensor(
    name="image", datatype="INT8", shape=(1, 8, 8, 1), scale=0.003921568859368563, zero_point=-128
)
OUTPUT = Tensor(name="probs", datatype="INT8", shape=(1, 10), scale=0.00390625, zero_point=-128)

Reals = NDArray[np.float32]


class Sample:
    """The parts of a digits bundle, to be changed before it is put somewhere."""

    def __init__(self, name: str = "v1", version: str | None = None) -> None:
        folder = SAMPLES / name
        self.family = "digits"
        self.version = version or name
        self.inputs: tuple[Tensor, ...] = (INPUT,)
        self.outputs: tuple[Tensor, ...] = (OUTPUT,)
        self.classification: Classification | None = Classification(scores="probs")
        self.rows = 32
        held_out = np.load(folder / "heldout.npz")
        vectors = np.load(folder / "golden.npz")
        labels = (folder / "labels.txt").read_text().split()
        facts = baseline.make({"image": held_out["image"]}, held_out["probs"], labels)
        self.files = {
            "model.tflite": (folder / "model.tflite").read_bytes(),
            "labels.txt": (folder / "labels.txt").read_bytes(),
            "golden.msgpack": golden.encode(
                golden.GoldenVectors(
                    inputs={"image": _real(vectors["image"])},
                    outputs={"probs": _real(vectors["probs"])},
                    labels=tuple(vectors["label"].tolist()),
                )
            ),
            "baseline.bin": codec.encode_baseline(facts),
        }

    def manifest(self) -> Manifest:
        """Return the manifest of the parts as they are now."""
        return Manifest(
            family=self.family,
            version=self.version,
            model="model.tflite",
            inputs=self.inputs,
            outputs=self.outputs,
            files=tuple(_entry(name, data) for name, data in sorted(self.files.items())),
            golden=Golden(rows=self.rows, runtime="ai-edge-litert 2.3.0"),
            baseline="baseline.bin" if "baseline.bin" in self.files else None,
            classification=self.classification,
        )

    def watch(self, *, stride: int = 1, window_rows: int = 300) -> Sample:
        """Change how the baseline asks to be counted against."""
        facts = codec.parse_baseline(self.files["baseline.bin"])
        changed = msgspec.structs.replace(facts, stride=stride, window_rows=window_rows)
        self.files["baseline.bin"] = codec.encode_baseline(changed)
        return self

    def declare(self, segments: tuple[str, ...], values: tuple[str, ...]) -> Sample:
        """Declare segments of the traffic, and business values in steps of 1/256."""
        facts = codec.parse_baseline(self.files["baseline.bin"])
        named = tuple(baseline.Value(name=name, scale=256.0) for name in values)
        changed = msgspec.structs.replace(facts, segments=segments, values=named)
        self.files["baseline.bin"] = codec.encode_baseline(changed)
        return self

    def put(self, state_dir: Path, slot: str, *, serve: bool = True) -> str:
        """Fill a slot, let the pointer name it, and return the manifest's digest."""
        data = manifest.encode(self.manifest())
        place = slots.slot(state_dir / "slots", self.family, slot)
        filled.fill(place, data, self.files)
        slots.mark(place, Mark.GOOD)
        if serve:
            slots.switch(state_dir / "slots", place)
        return chunks.digest_of(data)


def images(count: int) -> Reals:
    """Return digits as the model's clients have them: float32 [count, 1, 8, 8, 1]."""
    feed: Reals = np.load(SAMPLES / "feed.npz")["image"].astype(np.float32)
    return feed[np.arange(count) % len(feed)].reshape(count, 1, 8, 8, 1)


def turned(data: bytes) -> bytes:
    """Return golden vectors whose answers belong to other inputs."""
    vectors = golden.parse(data)
    probs = vectors.outputs["probs"]
    rows = np.frombuffer(probs.data, dtype="<f4").reshape(probs.shape)
    turned = golden.RealArray(shape=probs.shape, data=np.roll(rows, 1, axis=1).tobytes())
    return golden.encode(
        golden.GoldenVectors(inputs=vectors.inputs, outputs={"probs": turned}, labels=())
    )


def _entry(name: str, data: bytes) -> FileEntry:
    return FileEntry(
        name=name,
        length=len(data),
        digest=chunks.digest_of(data),
        chunks=tuple(chunk.digest for chunk in chunks.cut(data)),
    )


def _real(values: NDArray[np.float64]) -> golden.RealArray:
    data = values.astype("<f4")
    return golden.RealArray(shape=data.shape, data=data.tobytes())
