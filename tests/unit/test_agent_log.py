"""The log is one line an event, whatever went wrong: no traceback ever stands in it."""

from __future__ import annotations

import asyncio

import pytest

from agent import log


def test_what_nobody_caught_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A callback that fails is told by the loop's handler."""

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(log.unhandled("core"))
        asyncio.get_running_loop().call_soon(int, "x")
        await asyncio.sleep(0.01)

    asyncio.run(run())
    told = capsys.readouterr().err
    assert "core event=unhandled" in told
    assert "ValueError" in told
    assert told.count("\n") == 1
