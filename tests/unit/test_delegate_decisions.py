"""Accelerators, decided: what a delegate took, whether it may serve, how long it is held off."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.inference import delegates, losses, verdicts
from agent.inference.cpu_backed import CpuBacked
from agent.inference.delegates import Compiled, External
from agent.inference.losses import Loss, Losses
from agent.inference.quantization import Stored
from agent.inference.threaded import Threaded
from agent.inference.verdicts import Coverage, Probe
from firmware_bundles.errors import ConfigInvalid, ModelUnusable

CHAIN = [
    {"op_name": "CONV_2D", "inputs": [0, 9], "outputs": [1]},
    {"op_name": "MAX_POOL_2D", "inputs": [1], "outputs": [2]},
    {"op_name": "CONV_2D", "inputs": [2, 8], "outputs": [3]},
    {"op_name": "ADD", "inputs": [2, 3], "outputs": [4]},
    {"op_name": "SOFTMAX", "inputs": [4], "outputs": [5]},
]


def node(inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    """Return a delegate's node."""
    return {"op_name": "DELEGATE", "inputs": inputs, "outputs": outputs}


def probe(**changes: Any) -> Probe:  # noqa: ANN401 - values of several types
    """Return what a good probe measured."""
    facts: dict[str, Any] = {
        "nodes": 1,
        "taken": 4,
        "operations": 5,
        "difference_lsb_max": 0.0,
        "difference_absolute_max": 0.0,
        "latency_us": 10.0,
        "cpu_latency_us": 40.0,
    }
    return Probe(**(facts | changes))


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ([], Coverage(0, 0, 5)),
        ([node([1], [2])], Coverage(1, 1, 5)),
        ([node([0, 9], [1]), node([4], [5])], Coverage(2, 2, 5)),
        ([node([0, 9, 8], [5])], Coverage(1, 5, 5)),
        ([node([2, 8], [4])], Coverage(1, 2, 5)),
        ([node([0, 9], [1, 2])], Coverage(1, 2, 5)),
        ([node([5], [77])], Coverage(1, 0, 5)),
    ],
)
def test_what_a_delegate_took_lies_between_its_inputs_and_outputs(
    nodes: list[dict[str, Any]], found: Coverage
) -> None:
    """Nodes are counted apart from the operations that they stand for."""
    assert verdicts.coverage([*CHAIN, *nodes]) == found


@pytest.mark.parametrize(
    ("measured", "may_be_slower", "said"),
    [
        (probe(), False, ""),
        (probe(nodes=0, taken=0), True, "it took none of 5 operations"),
        (probe(nodes=1, taken=0), True, "it took none of 5 operations"),
        (probe(latency_us=40.0), False, "it is no faster: 40 us, 40 us on the CPU"),
        (probe(latency_us=40.0), True, ""),
        (probe(latency_us=math.nan), False, ""),
    ],
)
def test_an_accelerator_serves_when_it_took_something_and_is_faster(
    measured: Probe,
    may_be_slower: bool,  # noqa: FBT001 - a row of the table
    said: str,
) -> None:
    """Everything else is refused, with the figures."""
    assert verdicts.refusal(measured, may_be_slower=may_be_slower) == said


def test_praise_gives_the_figures() -> None:
    """What serves is told with its coverage and both paces."""
    said = verdicts.praise(probe())
    assert said == "took 4 of 5 operations in one node, 10 us, 40 us on the CPU"


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=20),
    st.floats(0.05, 7 * 86400),
)
def test_a_loss_holds_off_for_longer_each_time_within_bounds(
    gaps: list[float], retry_s: float
) -> None:
    """Never below `retry_s` right after a loss, never above a day or `retry_s`."""
    loss, now, last = None, 1000.0, 0.0
    for gap in gaps:
        now += gap
        counted = loss.count if loss else 0
        loss = losses.lose(loss, "x", now)
        wait = losses.wait_s(loss, retry_s, now)
        assert loss.count in {1, counted + 1}
        assert retry_s * 0.999 - 1e-3 <= wait <= max(retry_s, 86400.0)
        assert losses.wait_s(loss, retry_s, now + wait + 1) == 0
        assert loss.count == 1 or wait >= last * 0.999 - 1e-3
        last = wait


def test_a_clock_that_went_back_holds_nothing_off_for_ever() -> None:
    """The pause is counted anew, at most."""
    loss = Loss(1, 1e9, "x")
    assert losses.wait_s(loss, 60, 0.0) == 60
    assert losses.wait_s(None, 60, 0.0) == 0


def test_what_was_in_use_when_the_worker_died_was_lost(tmp_path: Path) -> None:
    """The next worker knows; after an orderly end or a power cut there is nothing to know."""
    note = losses.used(losses.used(Losses(), "a/x", "boot 1"), "b/x", "boot 1")
    losses.store(tmp_path, losses.released(note, "b/x"))
    found = losses.after_death(losses.load(tmp_path), 5.0, "boot 1")
    assert found == Losses(lost={"a/x": Loss(1, 5.0, losses.DIED)}, boot="boot 1")
    assert losses.after_death(note, 5.0, "boot 2") == Losses(boot="boot 1")
    assert losses.lost(found, "a/x", "y", 6.0).lost["a/x"] == Loss(2, 6.0, "y")


@pytest.mark.parametrize("data", [b"", b"{", b'{"lost": {"a": 1}}', b"\xff", b"[" * 100_000])
def test_a_damaged_note_says_nothing(tmp_path: Path, data: bytes) -> None:
    """It is of no worth next to serving."""
    (tmp_path / losses.FILE_NAME).write_bytes(data)
    assert losses.load(tmp_path) == Losses()


EXTERNAL = b"""
[[delegate]]
kind = "external"
name = "edgetpu"
library = "/usr/lib/libedgetpu.so.1"
options = {device = "usb:0", level = 2}
exclusive = true

[[delegate]]
kind = "compiled"
name = "gpu"
accelerator = "gpu"
"""


def test_delegates_are_read_in_order() -> None:
    """Both kinds, with their defaults."""
    assert delegates.parse(EXTERNAL) == (
        External(
            name="edgetpu",
            library="/usr/lib/libedgetpu.so.1",
            options={"device": "usb:0", "level": 2},
            exclusive=True,
        ),
        Compiled(name="gpu", accelerator="gpu"),
    )
    assert delegates.parse(b"") == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"external"', b'"magic"', "Invalid value 'magic'"),
        (b'"/usr/lib/libedgetpu.so.1"', b'"libedgetpu.so.1"', "matching regex"),
        (b"exclusive", b"exclusiv", "unknown field `exclusiv`"),
        (b'"gpu"\nacc', b'"edgetpu"\nacc', "a name of its own"),
        (b'"edgetpu"', b'"cpu"', "none is 'cpu'"),
        (b'"edgetpu"', b'"a/b"', "matching regex"),
        (b"= true", b"=", "it is not TOML"),
        (b'accelerator = "gpu"', b'accelerator = "cpu"', "Invalid enum value 'cpu'"),
        (b"exclusive = true", b"probe_s_max = 0", ">= 0.05"),
        (b"exclusive = true", b"probe_s_max = nan", "probe_s_max"),
    ],
)
def test_a_wrong_entry_is_refused(old: bytes, new: bytes, said: str) -> None:
    """With what is wrong."""
    assert old in EXTERNAL
    with pytest.raises(ConfigInvalid, match=said):
        delegates.parse(EXTERNAL.replace(old, new))


def test_the_file_is_limited_and_named(tmp_path: Path) -> None:
    """A refusal says which file."""
    assert delegates.load(tmp_path) == ()
    (tmp_path / delegates.FILE_NAME).write_bytes(b"#" * 100_000)
    with pytest.raises(ConfigInvalid, match=r"inference\.toml is larger than 65536 bytes"):
        delegates.load(tmp_path)
    (tmp_path / delegates.FILE_NAME).write_bytes(b"x")
    with pytest.raises(ConfigInvalid, match=r"inference\.toml: it is not TOML"):
        delegates.load(tmp_path)


class Echo:
    """A backend that answers with its inputs, until told otherwise."""

    def __init__(self, delegate: str, factor: int) -> None:
        self.runtime = "echo"
        self.delegate = delegate
        self.factor = factor
        self.fails = False
        self.stuck: threading.Event | None = None

    def run(self, inputs: list[Stored] | Any) -> list[Stored]:  # noqa: ANN401 - a Backend's
        """Answer."""
        if self.stuck is not None:
            self.stuck.wait(60)
        if self.fails:
            raise RuntimeError("gone")
        return [each * self.factor for each in inputs]


ONE = [np.array([1])]


def guarded(fast: Echo, invoke_s_max: float = 30.0) -> tuple[CpuBacked, list[str]]:
    """Put an accelerator in front of a CPU; both answer differently."""
    accelerator = Threaded(lambda: fast, build_s_max=30.0, invoke_s_max=invoke_s_max)
    made = CpuBacked(accelerator, Echo("cpu", 1))
    told: list[str] = []
    made.on_lost = told.append
    return made, told


def test_the_input_on_which_an_accelerator_fails_is_answered_by_the_cpu() -> None:
    """From then on all are, and it is told once."""
    fast = Echo("fast", 2)
    made, told = guarded(fast)
    assert (made.run(ONE)[0][0], made.delegate) == (2, "fast")
    fast.fails = True
    assert (made.run(ONE)[0][0], made.delegate) == (1, "cpu")
    fast.fails = False
    assert made.run(ONE)[0][0] == 1
    assert told == ["gone"]
    assert made.lost == "gone"


def test_requests_that_meet_a_hang_are_all_answered() -> None:
    """The one that met it after the limit, those behind it at once."""
    fast = Echo("fast", 2)
    made, told = guarded(fast, invoke_s_max=0.1)
    fast.stuck = threading.Event()
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(int(made.run(ONE)[0][0]))) for _ in range(4)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    fast.stuck.set()
    assert answers == [1] * 4
    assert told == ["it did not answer within 0.1 seconds"]


def test_an_accelerator_that_cannot_be_built_in_time_is_refused() -> None:
    """Whatever it raises, and when it does not come back."""
    gate = threading.Event()

    def stuck() -> Echo:
        gate.wait(60)
        return Echo("fast", 2)

    def fails() -> Echo:
        raise OSError("no such device")

    for build, said in ((stuck, "it was not ready within 0.1 seconds"), (fails, "no such device")):
        with pytest.raises(ModelUnusable, match=said):
            Threaded(build, build_s_max=0.1 if build is stuck else 30, invoke_s_max=1)
    gate.set()


def test_an_accelerator_that_is_not_wanted_any_more_ends_its_thread() -> None:
    """A model that made place leaves nothing behind."""
    before = {each.ident for each in threading.enumerate()}
    made, _ = guarded(Echo("fast", 2))
    (thread,) = (each for each in threading.enumerate() if each.ident not in before)
    assert made.run(ONE)[0][0] == 2
    del made
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() > 0
