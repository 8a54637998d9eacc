"""However the child of a self-test ends, the parent has a clean verdict."""

from __future__ import annotations

import pytest

from agent.inference import selftest
from firmware_bundles.errors import ModelUnusable, SelfTestFailed, ShoalError


@pytest.mark.parametrize(
    ("status", "output", "kind", "sentence"),
    [
        (-11, b"", SelfTestFailed, "the self-test died by SIGSEGV"),
        (-9, b"{}", SelfTestFailed, "the self-test died by SIGKILL"),
        (1, b"", SelfTestFailed, "the self-test ended with status 1: MemoryError"),
        (0, b"garbage", SelfTestFailed, "the self-test ended with status 0: MemoryError"),
        (
            0,
            b'{"type":"refusal","code":"bundle.model_unusable","message":"no"}',
            ModelUnusable,
            "no",
        ),
    ],
)
def test_each_end_is_a_refusal_with_its_reason(
    status: int, output: bytes, kind: type[ShoalError], sentence: str
) -> None:
    """A signal, an exit without an answer, and the child's own refusal are told apart."""
    with pytest.raises(kind) as caught:
        selftest._verdict(status, output, b"Traceback\nMemoryError\n")
    assert caught.value.message == sentence
