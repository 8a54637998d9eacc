"""Damaged model files in the self-test, by the runtime of this environment.

A file that its owner signed may still be damaged, or hostile: the runtime may crash on it. That
must stay in the child, within its memory and its time.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from agent.inference import backends, selftest
from agent.inference.control import SelfTest
from firmware_bundles.errors import ShoalError
from support.bundles import Sample
from support.mutants import MUTATIONS, Mutation, mutant

COUNT, COUNT_LONG = 20, 600  # of each of five mutations
_DEADLINE_S: Final = 10.0
_ENDING_S_MAX: Final = 30.0  # a busy machine needs time to end what is killed


async def _outcome(state_dir: Path) -> str:
    """Offer the slot's model to the self-test; return the verdict in a word or two."""
    began = time.monotonic()
    try:
        await selftest.run(state_dir, SelfTest(family="digits", slot="A", deadline_s=_DEADLINE_S))
    except ShoalError as error:
        verdict = error.message.split(" by ")[-1] if "died by" in error.message else error.code
    else:
        verdict = "passed"
    assert time.monotonic() - began < _DEADLINE_S + _ENDING_S_MAX
    return verdict


async def _outcomes(folder: Path, mutation: Mutation, count: int) -> Counter[str]:
    verdicts: Counter[str] = Counter()
    numbers = iter(range(count))

    async def offer(name: str) -> None:
        for number in numbers:
            sample = Sample("v1")
            sample.files["model.tflite"] = mutant(sample.files["model.tflite"], mutation, number)
            sample.put(folder / name, "A")
            verdicts[await _outcome(folder / name)] += 1

    await asyncio.gather(*(offer(f"side-{side}") for side in range(os.cpu_count() or 1)))
    return verdicts


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.__name__)
def test_no_mutant_of_a_model_leaves_the_child(
    tmp_path: Path,
    mutation: Mutation,
    is_long_run: bool,  # noqa: FBT001 - a fixture
    record_property: Callable[[str, object], None],
) -> None:
    """Each ends in a verdict: no crash of the parent, no memory over the limit, no hang."""
    count = COUNT_LONG if is_long_run else COUNT
    verdicts = asyncio.run(_outcomes(tmp_path, mutation, count))
    record_property("mutants", [backends.load_runtime()[1], dict(verdicts)])
    print("mutants", json.dumps([backends.load_runtime()[1], dict(verdicts)]))
    assert verdicts.total() == count
    # The most that any child of this process ever had.
    peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert peak_bytes < selftest.MEMORY_BYTES_MAX
