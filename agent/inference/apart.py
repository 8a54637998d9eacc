"""Work in a thread of its own that may never end: whoever waits may stop, and the process, too.

The loop's own executor would be waited for at the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

_ResultT = TypeVar("_ResultT")


async def run(work: Callable[[], _ResultT]) -> _ResultT:
    """Return what `work` returns, or raise what it raises; cancelled, it is left to itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_ResultT] = loop.create_future()

    def tell(result: _ResultT | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # without an error it is there

    def do() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - it is raised where it is awaited
            error = raised
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=do, daemon=True).start()
    return await done
