"""The other side of `program`: starts a process full of simulated devices, and tells it things."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from processes import ProgramError

if TYPE_CHECKING:
    from fleet import Installation
    from support.simulated.behaviour import Dealt

_PATHS: Final = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3] / "scripts/demo")]
_END_S_MAX: Final = 20.0


class Simulation:
    """Simulated devices in a process of their own."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._making: dict[str, Any] = {}
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "support.simulated.program"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**environment, "PYTHONPATH": ":".join(_PATHS)},
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def tell(self, do: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - of JSON
        """Give a command; return its answer. Raises ProgramError if the process ends."""
        self.ask(do, **facts)
        return self.answer(do)

    def ask(self, do: str, **facts: Any) -> None:  # noqa: ANN401 - of JSON
        """Give a command whose answer is read later, by `answer`."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
            self._process.stdin.flush()

    def answer(self, do: str) -> dict[str, Any]:
        """Wait for the answer to the oldest command that has none."""
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            status = self._process.wait(_END_S_MAX)
            raise ProgramError(f"the simulated devices ended with {status} in {do!r}:\n{tail}")
        found: dict[str, Any] = json.loads(line)
        return found

    def enrol(
        self,
        installation: Installation,
        count: int,
        *,
        seed: int,
        mix: Sequence[Dealt] = (),
        labels: Mapping[str, str] | None = None,
        is_durable: bool = False,
        settings: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Invite and enrol a batch of devices, and make them as the options say.

        With `is_durable` what they answer goes through the agent's recorder and buffer on a disk;
        `settings` are the agent's.
        """
        self._making = {
            "folder": str(installation.root / "simulated"),
            "seed": seed,
            "mix": msgspec.to_builtins(list(mix)),
            "is_durable": is_durable,
            "settings": dict(settings or {}),
        }
        invited = installation.post(
            "/enrolment-tokens", json.dumps({"uses": count, "labels": dict(labels or {})})
        )
        return self.tell(
            "enrol",
            server=f"https://127.0.0.1:{installation.port}",
            token=invited["token"],
            ca=str(installation.data / "ca.pem"),
            count=count,
            make=self._making,
        )

    def resume(self, former: Simulation) -> dict[str, Any]:
        """Take up the devices of a process that was killed."""
        self._making = former._making
        return self.tell("resume", make=self._making)

    def kill(self) -> None:
        """End all of them at once, as a power cut would."""
        self._process.kill()
        self._close()

    def close(self) -> None:
        """Let all of them leave."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_END_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@contextmanager
def simulation(installation: Installation) -> Iterator[Simulation]:
    """A process of simulated devices for an installation, ended at the end."""
    made = Simulation(installation.logs / "simulated.log", installation.environment)
    try:
        yield made
    finally:
        made.close()
