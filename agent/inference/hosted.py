"""An accelerator in a process of its own: the child that probed it goes on and serves.

Whatever its driver does, crash, hang or eat memory, ends that process alone, and the input it was
at is answered by the CPU. Inputs and answers lie in memory that both map; who may write is told by
messages on a socket. What the child does stands in `probe`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.inference import children, probe
from agent.inference.control import Refusal
from agent.inference.delegates import Delegate
from agent.inference.exchange import Exchange
from agent.inference.quantization import Stored
from agent.inference.verdicts import Probe
from firmware_bundles.errors import Malformed, ModelUnusable

if TYPE_CHECKING:
    from agent.inference.served import ServedModel

_MESSAGE_BYTES_MAX: Final = 64 * 1024
_END_S_MAX: Final = 1.0


class Hosted:
    """A child that probes a delegate on a model (`proved`), then runs it. For one caller a time."""

    def __init__(self, state_dir: Path, model: ServedModel, delegate: Delegate) -> None:
        """Start the child. Raises ModelUnusable where there is no process to be had."""
        self.delegate = delegate.name
        self._settings = delegate
        slot = model.bundle.slot
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = os.memfd_create("shoal-delegate", os.MFD_CLOEXEC)
        try:
            self._exchange = Exchange(memory, model.inputs, model.outputs)
            self._process = subprocess.Popen(
                [
                    *probe.COMMAND,
                    *(str(state_dir), slot.family, slot.name, delegate.name),
                    *(str(theirs.fileno()), str(memory)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # drivers print
                pass_fds=(theirs.fileno(), memory),
                env=children.own_environment(),
            )
        except OSError as error:
            self._socket.close()
            raise ModelUnusable(f"its process cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
            os.close(memory)
        self._finalizer = weakref.finalize(self, _end, self._process, self._socket)

    def proved(self) -> Probe:
        """Wait for what the child measured; call it once, first.

        Raises ModelUnusable with the reason: a crash, a hang, a refusal, answers that disagree.
        """
        answer = parse_probe(self._await(self._settings.probe_s_max, "the probe did not end"))
        if isinstance(answer, Refusal):
            raise ModelUnusable(answer.message)
        return answer

    def run(self, inputs: Sequence[Stored]) -> list[Stored]:
        """Return the accelerator's outputs. Raises ModelUnusable."""
        self._exchange.put(inputs)
        try:
            self._socket.send(probe.RUN)
        except OSError:
            raise ModelUnusable(f"its process {self._fate()}") from None
        answer = self._await(self._settings.invoke_s_max, "it did not answer")
        if answer != probe.DONE:
            raise ModelUnusable(answer.decode("utf-8", "replace"))
        return self._exchange.answered()

    def close(self) -> None:
        """Kill the child; its memory goes with it, and whatever it holds of the accelerator."""
        self._finalizer()

    def _await(self, seconds: float, what: str) -> bytes:
        try:
            self._socket.settimeout(seconds)
            message = self._socket.recv(_MESSAGE_BYTES_MAX)
        except TimeoutError:
            raise ModelUnusable(f"{what} within {seconds:g} seconds") from None
        except OSError:
            message = b""
        if not message:
            raise ModelUnusable(f"its process {self._fate()}")
        return message

    def _fate(self) -> str:
        """Return what became of the child, as far as it is known a moment later."""
        with suppress(subprocess.TimeoutExpired):
            status = self._process.wait(_END_S_MAX)
            if status < 0:
                return f"died by {signal.Signals(-status).name}"
            return f"ended with status {status}; the worker's log may say more"
        return "ended"


def parse_probe(message: bytes) -> Probe | Refusal:
    """Read what a child says of its probe. Raises ModelUnusable."""
    try:
        return probe.parse(message)
    except Malformed as error:
        raise ModelUnusable(f"the probe was no probe: {error.message}") from error


def _end(process: subprocess.Popen[bytes], line: socket.socket) -> None:
    """Kill the child, and let it be reaped when it is gone: one in its driver may take a while."""
    with suppress(OSError):  # wakes whoever waits for an answer
        line.shutdown(socket.SHUT_RDWR)
    process.kill()

    def reap() -> None:
        process.wait()
        line.close()  # not sooner: its number would be another file's while somebody still reads

    threading.Thread(target=reap, name="reaper", daemon=True).start()
