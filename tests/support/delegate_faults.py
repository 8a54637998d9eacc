"""All that an accelerator may do wrong while it is tried, as data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Fault(NamedTuple):
    """What an accelerator does wrong in its probe, and what is said of it."""

    name: str
    options: dict[str, object]
    said: str
    settings: Mapping[str, object] = MappingProxyType({})


FAULTS = (
    Fault("takes-nothing", {"take": "none"}, "it took none of 8 operations"),
    Fault("load-fails", {"fault": "error", "at": "load"}, "told to fail at load"),
    # The older runtime dies of it.
    Fault("take-fails", {"fault": "error", "at": "take"}, "(delegate application failure|SIGSEGV)"),
    Fault("allocate-fails", {"fault": "error", "at": "allocate"}, "failed to prepare"),
    Fault("invoke-fails", {"fault": "error", "at": "invoke"}, "failed to invoke"),
    Fault("load-crashes", {"fault": "crash", "at": "load"}, "died by SIGSEGV"),
    Fault("take-crashes", {"fault": "crash", "at": "take"}, "died by SIGSEGV"),
    Fault("allocate-crashes", {"fault": "crash", "at": "allocate"}, "died by SIGSEGV"),
    Fault("invoke-crashes", {"fault": "crash", "at": "invoke"}, "died by SIGSEGV"),
    Fault(
        "load-hangs",
        {"fault": "hang", "at": "load"},
        "the probe did not end within 2 seconds",
        {"probe_s_max": 2},
    ),
    Fault("take-hangs", {"fault": "hang", "at": "take"}, "within 2 seconds", {"probe_s_max": 2}),
    Fault(
        "allocate-hangs",
        {"fault": "hang", "at": "allocate"},
        "within 2 seconds",
        {"probe_s_max": 2},
    ),
    Fault(
        "invoke-hangs",
        {"fault": "hang", "at": "invoke"},
        "it did not answer within 0.5 seconds",
        {"invoke_s_max": 0.5},
    ),
    Fault("wrong", {"fault": "wrong"}, "golden vector 0: output 'probs' is off by"),
    Fault(
        "slow", {"delay_us": 2000}, "it is no faster: .* us on the CPU", {"may_be_slower": False}
    ),
    Fault("not-there", {}, "cannot open shared object file", {"library": "/nowhere/lib.so"}),
)
