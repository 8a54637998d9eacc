"""Whether an accelerator may serve a model: pure decisions over what a probe measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

_DELEGATE: Final = "DELEGATE"


class Coverage(NamedTuple):
    """How much of a graph a delegate took: `nodes` of its own that stand for `taken` operations."""

    nodes: int
    taken: int
    operations: int


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """What a probe measured, with answers that agree with the CPU's; medians, in microseconds."""

    nodes: int
    taken: int
    operations: int
    difference_lsb_max: float
    difference_absolute_max: float
    latency_us: float
    cpu_latency_us: float


def coverage(details: Sequence[Mapping[str, Any]]) -> Coverage:
    """Count what a delegate took, from an interpreter's nodes (`op_name`, `inputs`, `outputs`).

    Delegation leaves the operations in the list and adds the delegate's nodes behind them. An
    operation is taken when it lies between the inputs and the outputs of such a node. Only right
    where no other delegate works: XNNPACK's nodes have the same name.
    """
    own = [each for each in details if each["op_name"] == _DELEGATE]
    operations = [each for each in details if each["op_name"] != _DELEGATE]
    producers = {
        int(tensor): place for place, each in enumerate(operations) for tensor in each["outputs"]
    }
    taken: set[int] = set()
    for node in own:
        seen = {int(tensor) for tensor in node["inputs"]}
        waiting = [int(tensor) for tensor in node["outputs"]]
        while waiting:
            tensor = waiting.pop()
            if tensor in seen or tensor not in producers:
                continue
            seen.add(tensor)
            taken.add(producers[tensor])
            waiting += [int(each) for each in operations[producers[tensor]]["inputs"]]
    return Coverage(len(own), len(taken), len(operations))


def refusal(probe: Probe, *, may_be_slower: bool) -> str:
    """Return why the accelerator may not serve, or nothing when it may."""
    if probe.nodes == 0 or probe.taken == 0:
        return f"it took none of {probe.operations} operations"
    if not may_be_slower and probe.latency_us >= probe.cpu_latency_us:
        return f"it is no faster: {_pace(probe)}"
    return ""


def praise(probe: Probe) -> str:
    """Return what is to be known of an accelerator that serves."""
    nodes = "one node" if probe.nodes == 1 else f"{probe.nodes} nodes"
    return f"took {probe.taken} of {probe.operations} operations in {nodes}, {_pace(probe)}"


def _pace(probe: Probe) -> str:
    return f"{probe.latency_us:.0f} us, {probe.cpu_latency_us:.0f} us on the CPU"
