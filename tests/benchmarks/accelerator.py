"""A real accelerator path: OpenVINO's plug-in of LiteRT, compiling for the CPU, through our probe.

Its libraries are fetched into an environment of their own once, and kept. That it is slower than
XNNPACK on a model of this size is expected: the figures say by how much.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import ai_edge_litert

from agent.deployment import slots
from agent.inference import delegates, served
from agent.inference.hosted import Hosted
from agent.inference.verdicts import Probe
from firmware_bundles.errors import ModelUnusable
from support import benchmark, serving_peers, timing
from support import delegates as entries
from support.benchmark import Limit, Report
from support.bundles import Sample, images

_PACKAGE: Final = "openvino==2026.3.1"  # what the plug-in of ai-edge-litert 2.3 is linked to
_LIBRARIES: Final = (
    "libtbb.so.12",
    "libopenvino.so.2631",
    "libopenvino_tensorflow_lite_frontend.so.2631",
)
_STEPS_MAX: Final = 2.0
_CALLS: Final = 500


def fetch() -> Path:
    """Return where OpenVINO's libraries are, in an environment of their own. Raises Missing."""
    python = serving_peers.environment("openvino", (_PACKAGE,))
    (libraries,) = python.parents[1].glob("lib/python*/site-packages/openvino/libs")
    return libraries


def run(state_dir: Path, preload: Sequence[Path]) -> tuple[Probe, float]:
    """Probe the plug-in on the digits model, and serve from its process, as a device does.

    Returns also the median microseconds with the hand-over. Raises ModelUnusable.
    """
    plugins = Path(str(ai_edge_litert.__file__)).parent / "vendors" / "intel_openvino"
    entry = {
        "kind": "compiled",
        "name": "openvino",
        "accelerator": "npu",
        "openvino_device": "cpu",
        "preload": [str(each) for each in preload],
        "compiler": str(plugins / "compiler"),
        "dispatch": str(plugins / "dispatch"),
        "probe_s_max": 120,
    }
    entries.write(state_dir, entry)
    (delegate,) = delegates.load(state_dir)
    model = served.load(slots.slot(state_dir / "slots", "digits", "A"))
    hosted = Hosted(state_dir, model, delegate)
    try:
        found = hosted.proved()
        stored = [model.inputs[0].store(images(1)[0].ravel())]
        times = timing.interleaved_ms(_CALLS, {"hosted": lambda _: hosted.run(stored)})
        return found, 1000 * timing.medians(times)["hosted"]
    finally:
        hosted.close()


def measure() -> Report:
    """Return what the probe found."""
    libraries = fetch()
    with tempfile.TemporaryDirectory(prefix="shoal-accelerator-") as name:
        folder = Path(name)
        state_dir = folder / "state"
        state_dir.mkdir()
        Sample("v1").put(state_dir, "A")
        found, served_us = run(state_dir, [libraries / each for each in _LIBRARIES])
        with suppress(ModelUnusable):
            run(state_dir, [])
            raise RuntimeError("a plug-in that cannot be loaded was taken for an accelerator")
    return Report(
        limits=[
            Limit(
                what="largest difference from the CPU",
                value=found.difference_lsb_max,
                unit="steps",
                limit=_STEPS_MAX,
            ),
            Limit(
                what="operations taken",
                value=found.taken,
                unit="",
                limit=found.operations,
                bound=">=",
            ),
        ],
        figures={
            "the accelerator, in its process, us": found.latency_us,
            "the same with the hand-over, us": served_us,
            "the CPU, us": found.cpu_latency_us,
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("accelerator", measure))
