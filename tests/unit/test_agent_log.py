"""The log is one line an event, whatever went wrong: no traceback ever stands in it."""

from __future__ import annotations

import asyncio
import logging

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


def test_a_library_speaks_in_our_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """With the error that it tells of, without its traceback."""
    logger = logging.Logger("uvicorn.error")  # noqa: LOG001 - not the process's own
    logger.addHandler(log.Lines("worker"))
    logger.info("too little to tell")
    try:
        int("x")
    except ValueError:
        logger.exception("it failed")
    told = capsys.readouterr().err
    assert 'worker event=uvicorn.error what="it failed"' in told
    assert told.count("\n") == 1
