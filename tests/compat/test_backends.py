"""One port, two runtimes: what holds of a model holds in each, by the runtime of this environment.

The suite runs these in the environment of ai-edge-litert; `test_other_runtime` runs them again
in that of tflite-runtime.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from agent import inventory
from agent.deployment import slots
from agent.inference import backends, selftest, served
from agent.inference import operations as asked
from agent.inference.control import SelfTest
from firmware_bundles import capabilities, model_facts, operations
from firmware_bundles.errors import ModelUnusable, ShoalError
from support.bundles import Sample, images
from support.models import with_operation_version


def loaded(state_dir: Path, sample: Sample) -> served.ServedModel:
    """Put a sample into a slot and load it."""
    sample.put(state_dir, "A")
    return served.load(slots.slot(state_dir / "slots", sample.family, "A"))


@pytest.mark.parametrize("version", ["v1", "v2", "bad"])
def test_golden_vectors_hold(tmp_path: Path, version: str) -> None:
    """The owner's answers, made by ai-edge-litert, are within two steps in any runtime."""
    agreement = loaded(tmp_path, Sample(version)).prove()
    assert agreement.rows == 32
    assert agreement.difference_lsb_max <= 2


def test_answers_are_copies(tmp_path: Path) -> None:
    """What was answered does not change under who holds it when the next input runs."""
    model = loaded(tmp_path, Sample("v2"))
    first, second = (model.inputs[0].store(each.ravel()) for each in images(2))
    answer = model.run([first])[0]
    before = answer.copy()
    assert not np.array_equal(model.run([second])[0], before)
    assert np.array_equal(answer, before)


def test_several_threads_may_ask_one_model(tmp_path: Path) -> None:
    """Each gets the answer to its own input."""
    model = loaded(tmp_path, Sample("v2"))
    inputs = [model.inputs[0].store(each.ravel()) for each in images(32)]
    alone = [model.run([each])[0] for each in inputs]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda place: model.run([inputs[place % 32]])[0], range(512)))
    assert all(np.array_equal(alone[n % 32], answer) for n, answer in enumerate(together))


def test_a_model_that_its_manifest_does_not_describe_is_refused(tmp_path: Path) -> None:
    """Shapes, types and scales of the manifest are what clients rely on."""
    sample = Sample("v1")
    sample.outputs = (sample.outputs[0].__class__(name="probs", datatype="FP32", shape=(1, 10)),)
    with pytest.raises(ModelUnusable, match="the manifest says FP32"):
        loaded(tmp_path, sample)


def test_a_truncated_model_is_a_refusal(tmp_path: Path) -> None:
    """One runtime refuses it, the other dies on it: in the child, either way."""
    sample = Sample("v1")
    sample.files["model.tflite"] = sample.files["model.tflite"][:10_000]
    sample.put(tmp_path, "A")
    with pytest.raises(ShoalError, match=r"cannot load|died by|MemoryError|ended with status"):
        asyncio.run(selftest.run(tmp_path, SelfTest(family="digits", slot="A", deadline_s=30)))


def test_the_runtime_is_asked_what_it_has() -> None:
    """The table of known runtimes says what the runtime of this environment says itself."""
    child = (sys.executable, "-I", "-m", "agent.inference.operations")
    said = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    runtime = str(inventory.facts()["runtime"])
    assert operations.RUNTIMES[runtime] == said == operations.encode(asked.versions())


def test_the_inventory_tells_what_a_model_may_need() -> None:
    """Runtime, operations and memory of this machine."""
    offered = inventory.offered()
    assert offered.runtime in operations.RUNTIMES
    assert offered.operations == asked.versions()
    assert offered.memory_bytes > 2**27


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_operation_is_refused_where_the_table_says_so(tmp_path: Path, beyond: int) -> None:
    """At the newest version that the inventory tells a model loads, one beyond it does not."""
    newest = inventory.offered().operations["FULLY_CONNECTED"]
    sample = Sample("v1")
    data = with_operation_version(sample.files["model.tflite"], "FULLY_CONNECTED", newest + beyond)
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    facts = model_facts.read(data)
    needs = sample.manifest().needs.__class__(operations=facts.operations)
    lacks = capabilities.lacking(needs, inventory.offered())
    if beyond:
        assert f"FULLY_CONNECTED version {newest + 1}" in lacks[0]
        with pytest.raises(ModelUnusable, match="FULLY_CONNECTED"):
            backends.LiteRtBackend(path, sample.manifest())
    else:
        assert lacks == ()
        backends.LiteRtBackend(path, sample.manifest())
