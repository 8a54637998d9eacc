"""A headless Chromium, driven over the DevTools protocol: just what the page's tests need."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from websockets.sync.client import connect

from support import programs

if TYPE_CHECKING:
    from types import TracebackType

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-port=0",
)
_START_S_MAX: Final = 30.0
_WAIT_S_MAX: Final = 60.0
_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024


class Browser:
    """One tab. `problems` holds what the page logged as an error, and broken policies."""

    def __init__(self, directory: Path) -> None:
        program = programs.find("chromium")
        assert program is not None, "the test is marked as needing chromium"
        self._directory = directory / "profile"
        self._log = (directory / "chromium.log").open("w+")
        flags = (*_FLAGS, f"--user-data-dir={self._directory}", "about:blank")
        self._process = subprocess.Popen([program, *flags], stderr=self._log)
        self._socket = connect(
            self._page_address(), max_size=_MESSAGE_BYTES_MAX, open_timeout=_START_S_MAX
        )
        self._number = 0
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def call(self, method: str, **parameters: object) -> Any:  # noqa: ANN401 - the protocol's JSON
        """Send a command; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=_WAIT_S_MAX))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:  # noqa: ANN401 - JavaScript's value
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + _WAIT_S_MAX
        while time.monotonic() < end:
            try:
                if self.evaluate(condition):
                    return
            except AssertionError:
                pass  # between two pages there may be nothing to ask
            time.sleep(0.05)
        told = self.evaluate("document.body.innerText.slice(0, 300)")
        raise TimeoutError(f"never true: {condition}; problems {self.problems}; page {told!r}")

    def log_in(self, address: str, token: str) -> None:
        """Log in as a person does."""
        self.open(f"{address}/login")
        self.evaluate(
            f"document.getElementById('token').value = {json.dumps(token)};"
            "document.querySelector('form button').click()"
        )
        self.wait("location.pathname === '/' && document.readyState === 'complete'")

    def screenshot(self, file: Path, *, width: int, scheme: str = "light") -> None:
        """Write a picture of the whole page."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        time.sleep(0.5)
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))

    def _page_address(self) -> str:
        """Return the address of the first tab, from the port that the browser tells."""
        end = time.monotonic() + _START_S_MAX
        while time.monotonic() < end:
            told = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
            if found := re.search(r"DevTools listening on ws://([^/]+)/", told):
                import httpx

                tabs = httpx.get(f"http://{found[1]}/json/list").json()
                pages = [tab for tab in tabs if tab["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.1)
        raise TimeoutError("chromium did not start")

    def _note(self, event: Any) -> None:  # noqa: ANN401 - the protocol's JSON
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"]["text"])
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.problems.append(event["params"]["entry"]["text"])
