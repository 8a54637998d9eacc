"""What a device offers to a model, and what a model needs beyond it.

Pure: the agent asks before it downloads, the control plane before it starts a rollout, and
`shoal bundle build` of the runtimes that a fleet has. What is not known is not held against anyone:
the self-test on the device has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import UNSET

from firmware_bundles import operations
from firmware_bundles.manifest import Needs

# Facts of an inventory.
RUNTIME = "runtime"
OPERATIONS = "operation_versions"
MEMORY = "memory_bytes"
ACCELERATORS = "accelerators"
SPEED_CLASS = "speed_class"
FACTS = (RUNTIME, OPERATIONS, MEMORY, ACCELERATORS, SPEED_CLASS)

RUNTIME_NONE = "none"  # the inventory's word for a device without an interpreter
_ACCELERATORS_NONE = "none"  # and for one whose owner configured no accelerator
_SEPARATOR = "."  # no accelerator's name has it, and every label's value may

# Operations beyond the schema that both runtimes register themselves (TensorFlow's register.cc).
_CUSTOM_KNOWN = frozenset(
    {"AudioSpectrogram", "Mfcc", "NumericVerify", "TFLite_Detection_PostProcess"}
)


class Capabilities(NamedTuple):
    """A runtime's name with version, its newest operations, and memory in bytes.

    `accelerators` are those that the device's owner configured, `speed_class` was measured. No
    operations, 0 bytes and None: not known.
    """

    runtime: str
    operations: Mapping[str, int]
    memory_bytes: int = 0
    accelerators: tuple[str, ...] | None = None
    speed_class: int | None = None


def accelerators_fact(names: Sequence[str]) -> str:
    """Return the fact of the inventory that names a device's accelerators."""
    return _SEPARATOR.join(names) or _ACCELERATORS_NONE


def of_inventory(facts: Mapping[str, object]) -> Capabilities:
    """Return what a device's inventory says; facts of another kind are not known."""
    runtime, versions, memory, accelerators, speed = (facts.get(name) for name in FACTS)
    return Capabilities(
        runtime=runtime if isinstance(runtime, str) else "",
        operations=operations.parse(versions) if isinstance(versions, str) else {},
        memory_bytes=memory if isinstance(memory, int) else 0,
        accelerators=_named(accelerators) if isinstance(accelerators, str) else None,
        speed_class=speed if isinstance(speed, int) else None,
    )


def of_runtime(name: str) -> Capabilities | None:
    """Return what a runtime such as "tflite-runtime 2.14.0" offers, if it is a known one."""
    versions = operations.RUNTIMES.get(name)
    return None if versions is None else Capabilities(name, operations.parse(versions))


def lacking(needs: Needs, offered: Capabilities) -> tuple[str, ...]:
    """Return in a sentence each what a model needs and is not offered."""
    if offered.runtime == RUNTIME_NONE:
        return ("no interpreter is installed",)
    lacks = (
        [_lack(*need, offered) for need in needs.operations.items()] if offered.operations else []
    )
    if 0 < offered.memory_bytes < needs.memory_bytes:
        lacks.append(
            f"it needs {needs.memory_bytes} bytes of memory; there are {offered.memory_bytes}"
        )
    lacks += [_lacks_accelerator(needs, offered), _lacks_speed(needs, offered)]
    return tuple(filter(None, lacks))


def _named(accelerators: str) -> tuple[str, ...]:
    return () if accelerators == _ACCELERATORS_NONE else tuple(accelerators.split(_SEPARATOR))


def _lacks_accelerator(needs: Needs, offered: Capabilities) -> str:
    wanted, there = needs.accelerator, offered.accelerators
    if wanted is UNSET or there is None or wanted in there:
        return ""
    return f"it needs the accelerator {wanted}; configured: {', '.join(there) or 'none'}"


def _lacks_speed(needs: Needs, offered: Capabilities) -> str:
    least, found = needs.speed_class_min, offered.speed_class
    if least is UNSET or found is None or found >= least:
        return ""
    return f"it needs speed class {least} or higher; {found} was measured"


def _lack(name: str, version: int, offered: Capabilities) -> str:
    if name.startswith(operations.CUSTOM):
        custom = name.removeprefix(operations.CUSTOM)
        return "" if custom in _CUSTOM_KNOWN else f"no runtime has the custom operation {custom!r}"
    newest = offered.operations.get(name, 0)
    if version <= newest:
        return ""
    known = f"at most version {newest}" if newest else "no such operation"
    return f"it needs {name} version {version}; {offered.runtime} has {known}"
