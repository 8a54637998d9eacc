"""One row of the table of parsers, and what must hold for every input that it is given."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from firmware_bundles import errors
from firmware_bundles.errors import ShoalError
from support.hostile.inputs import Form

CPU_S_MAX: Final = 5.0
MEMORY_BYTES_MAX: Final = 320 * 1024 * 1024
MESSAGE_CHARS_MAX: Final = 4096


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A way in for foreign bytes.

    `parse` takes them whole; where the product seals, signs or compresses, the row does so first,
    because whoever holds the key may be hostile too. `make_seeds` returns good inputs. `encode`
    undoes `parse`, where the product can. `cost` tells how many times fewer cases are affordable.
    """

    name: str
    parse: Callable[[bytes], Any]
    make_seeds: Callable[[], Sequence[bytes]]
    form: Form = Form.BYTES
    encode: Callable[[Any], bytes] | None = None
    refusals: tuple[type[Exception], ...] = (ShoalError,)
    cost: int = 1

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        """Good inputs."""
        return tuple(self.make_seeds())

    def check(self, data: bytes) -> bool:
        """Return whether `data` is taken; fail if it is refused or taken in a wrong way."""
        begin = time.process_time()
        is_taken = self._is_taken(data)
        assert time.process_time() - begin <= CPU_S_MAX, "one input took too long"
        return is_taken

    def _is_taken(self, data: bytes) -> bool:
        try:
            value = self.parse(data)
        except self.refusals as error:
            _check_refusal(error)
            return False
        if self.encode is not None:
            again = self.encode(value)
            assert self.encode(self.parse(again)) == again, "what was taken does not come back"
        return True


def _check_refusal(error: Exception) -> None:
    """A refusal has a code that another process understands, and a sentence of bounded length."""
    assert 0 < len(str(error)) <= MESSAGE_CHARS_MAX
    if isinstance(error, ShoalError):
        assert type(error) is not ShoalError
        assert type(errors.from_code(error.code, "")) is type(error)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process have only so much more memory than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES_MAX, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def in_folder(call: Callable[[Path, bytes], Any]) -> Callable[[bytes], Any]:
    """Return a parser that gets an empty folder in memory beside the bytes."""
    shared = Path("/dev/shm")  # noqa: S108 - a new folder in it, of this user alone
    where = shared if shared.is_dir() else None

    def parse(data: bytes) -> Any:  # noqa: ANN401 - what the product's function returns
        with tempfile.TemporaryDirectory(dir=where) as folder:
            return call(Path(folder), data)

    return parse


def from_file(call: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    """Return a parser for what reads a file by its path."""

    def through(folder: Path, data: bytes) -> Any:  # noqa: ANN401 - as above
        path = folder / "file"
        path.write_bytes(data)
        return call(path)

    return in_folder(through)


def text_of(data: bytes) -> str:
    """Return bytes as a program gets text from outside: what is no UTF-8 stays as surrogates."""
    return data.decode("utf-8", "surrogateescape")
