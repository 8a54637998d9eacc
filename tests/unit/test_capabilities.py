"""What a model needs beyond what a device offers."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import inventory
from firmware_bundles import capabilities, operations
from firmware_bundles.capabilities import Capabilities
from firmware_bundles.manifest import Needs

OLD = capabilities.of_runtime("tflite-runtime 2.14.0")
NEW = capabilities.of_runtime("ai-edge-litert 2.3.0")
GIB = 2**30


@given(st.dictionaries(st.sampled_from(operations.NAMES), st.integers(1, 35)))
def test_versions_survive_their_text(versions: dict[str, int]) -> None:
    """One character for each operation says all that there is to say."""
    text = operations.encode(versions)
    assert len(text) == len(operations.NAMES)
    assert operations.parse(text) == versions


@given(st.text(max_size=600))
def test_any_text_is_read(text: str) -> None:
    """An inventory comes from outside: what is no list of versions is not known."""
    assert set(operations.parse(text)) <= set(operations.NAMES)


def test_a_newer_operation_is_named_with_both_versions() -> None:
    """A person learns what the model needs, and what the runtime has instead."""
    needs = Needs(operations={"CONV_2D": 3, "FULLY_CONNECTED": 12})
    assert OLD is not None
    assert NEW is not None
    assert capabilities.lacking(needs, OLD) == (
        "it needs FULLY_CONNECTED version 12; tflite-runtime 2.14.0 has at most version 10",
    )
    assert capabilities.lacking(needs, NEW) == ()


@pytest.mark.parametrize(
    ("needs", "offered", "lacks"),
    [
        (Needs(operations={"DILATE": 1}), OLD,
         "it needs DILATE version 1; tflite-runtime 2.14.0 has no such operation"),
        (Needs(operations={"CUSTOM:FlexErf": 1}), NEW,
         "no runtime has the custom operation 'FlexErf'"),
        (Needs(operations={"CUSTOM:TFLite_Detection_PostProcess": 1}), NEW, None),
        (Needs(memory_bytes=2 * GIB), Capabilities("r", {}, GIB),
         f"it needs {2 * GIB} bytes of memory; there are {GIB}"),
        (Needs(memory_bytes=2 * GIB), Capabilities("r", {}, 0), None),
        (Needs(operations={"DILATE": 1}), Capabilities("r", {}), None),
        (Needs(), Capabilities("none", {}), "no interpreter is installed"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_a_sentence(
    needs: Needs, offered: Capabilities, lacks: str | None
) -> None:
    """Operations, custom operations, memory, an interpreter at all; the unknown lacks nothing."""
    assert capabilities.lacking(needs, offered) == (() if lacks is None else (lacks,))


@pytest.mark.parametrize(
    "facts", [{}, {"runtime": 1, "operation_versions": 2, "memory_bytes": "3"}]
)
def test_an_inventory_of_another_kind_says_nothing(facts: dict[str, object]) -> None:
    """Older agents tell less, and hostile ones anything."""
    assert capabilities.of_inventory(facts) == Capabilities("", {}, 0)


def test_an_unknown_runtime_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A newer runtime than this release knows answers for itself, in a child process."""
    known = str(inventory.facts()["operation_versions"])
    monkeypatch.setattr(operations, "RUNTIMES", {})
    assert inventory._operation_versions("ai-edge-litert 9.9.9") == known


@pytest.mark.parametrize(
    "child",
    [("no such program",), (sys.executable, "-c", "print(chr(7))"), (sys.executable, "-c", "1/0")],
)
def test_a_runtime_that_does_not_answer_is_not_known(
    monkeypatch: pytest.MonkeyPatch, child: tuple[str, ...]
) -> None:
    """The agent starts all the same; the self-test decides alone."""
    monkeypatch.setattr(inventory, "_ASK_RUNTIME", child)
    assert inventory._operation_versions("ai-edge-litert 9.9.9") == ""
