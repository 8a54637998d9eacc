"""What accelerators may do wrong when they are tried, by the runtime of this environment.

Which struct of the runtime lies where is the delegate's own knowledge (`support/delegate`): both
runtimes have the same.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from agent.deployment import slots
from agent.inference import delegates, served
from agent.inference.cpu_backed import CpuBacked
from agent.inference.hosted import Hosted
from firmware_bundles.errors import ModelUnusable
from support import delegates as entries
from support.bundles import Sample, images
from support.delegate_faults import FAULTS, Fault

_END_S_MAX = 30.0  # a busy machine needs time to start and to end what is killed

pytestmark = pytest.mark.needs("gcc")


def hosted(state_dir: Path, model: served.ServedModel, entry: dict[str, object]) -> Hosted:
    """Start the only delegate that is configured."""
    entries.write(state_dir, entry)
    (delegate,) = delegates.load(state_dir)
    return Hosted(state_dir, model, delegate)


def served_digits(state_dir: Path) -> served.ServedModel:
    """Return a model on the CPU."""
    Sample("v1").put(state_dir, "A")
    return served.load(slots.slot(state_dir / "slots", "digits", "A"))


@pytest.mark.parametrize(
    "fault", [each for each in FAULTS if each.name != "slow"], ids=lambda each: each.name
)
def test_a_fault_ends_in_its_reason_within_the_deadline(tmp_path: Path, fault: Fault) -> None:
    """Crash, hang, refusal or lie: this process lives, and knows why."""
    model = served_digits(tmp_path)
    entry = entries.entry(fault.options, name=fault.name, **fault.settings)
    began = time.monotonic()
    tried = hosted(tmp_path, model, entry)
    try:
        found = tried.proved()
    except ModelUnusable as error:
        said = error.message
    else:
        said = f"it took {found.taken or 'none'} of {found.operations} operations"
    tried.close()
    assert re.search(fault.said, said, re.DOTALL), said
    deadline_s = float(str(entry["probe_s_max"]))
    assert time.monotonic() - began < deadline_s + _END_S_MAX


def test_one_that_works_serves_from_its_process_until_that_crashes(tmp_path: Path) -> None:
    """Then the CPU answers, this process lives, and the reason names the signal."""
    model = served_digits(tmp_path)
    when = tmp_path / "now"
    tried = hosted(tmp_path, model, entries.entry({"fault": "crash", "when": str(when)}))
    assert tried.proved().taken == 2
    guarded = CpuBacked(tried, model.backend)
    stored = [model.inputs[0].store(each.ravel()) for each in images(8)]
    wanted = np.array([model.run([each])[0] for each in stored]).astype(int)
    for is_crashing in (False, True):
        if is_crashing:
            when.touch()
        answers = np.array([guarded.run([each])[0] for each in stored]).astype(int)
        assert np.abs(answers - wanted).max() <= 2
    assert guarded.lost == "its process died by SIGSEGV"
    assert guarded.delegate == "cpu"
