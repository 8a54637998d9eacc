"""A real accelerator path: OpenVINO's plug-in of LiteRT, compiling for the CPU, through our probe.

Its libraries are fetched into a folder of their own and thrown away. That it is slower than XNNPACK
on a model of this size is expected: the figures say by how much.
"""

from __future__ import annotations

import subprocess
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
from support import benchmark
from support import delegates as entries
from support.benchmark import Limit, Report
from support.bundles import Sample

_PACKAGE: Final = "openvino==2026.3.1"  # what the plug-in of ai-edge-litert 2.3 is linked to
_LIBRARIES: Final = (
    "libtbb.so.12",
    "libopenvino.so.2631",
    "libopenvino_tensorflow_lite_frontend.so.2631",
)
_STEPS_MAX: Final = 2.0


def fetch(folder: Path) -> Path:
    """Install OpenVINO's libraries and return where they are."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), _PACKAGE], check=True)
    return folder / "openvino" / "libs"


def run(state_dir: Path, preload: Sequence[Path]) -> Probe:
    """Probe the plug-in on the digits model, as a device does. Raises ModelUnusable."""
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
        return hosted.proved()
    finally:
        hosted.close()


def measure() -> Report:
    """Return what the probe found."""
    with tempfile.TemporaryDirectory(prefix="shoal-accelerator-") as name:
        folder = Path(name)
        libraries = fetch(folder / "openvino")
        state_dir = folder / "state"
        state_dir.mkdir()
        Sample("v1").put(state_dir, "A")
        found = run(state_dir, [libraries / each for each in _LIBRARIES])
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
        figures={"latency_us": found.latency_us, "cpu_latency_us": found.cpu_latency_us},
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("accelerator", measure))
