"""Asks the installed interpreter which versions of which operations it has.

    python -I -m agent.inference.operations

An interpreter refuses a model that declares an operation it does not have, before it looks at
anything else: a model of one declaration and an empty graph is enough to ask. In a process of its
own, for the agent's core loads no interpreter.
"""

from __future__ import annotations

import struct
import sys
from typing import Final

from agent.inference import backends
from firmware_bundles import operations
from firmware_bundles.errors import RuntimeUnsupported

# A whole model of TensorFlow's schema.fbs, version 3: one operator code, one graph that has no
# tensors and no operators, one empty buffer. In the operator code lie, one after the other, the
# old field of the code (a byte), the version and the new field of the code.
_MODEL: Final = bytes.fromhex(
    "1800000054464c330e001400040008000c00000010000000"  # root, and where the model's fields lie
    "10000000030000000c0000002c00000060000000"  # model
    "01000000100000000c0010000400000008000c00"  # operator codes
    "0c000000000000000000000000000000"  # one operator code
    "01000000100000000c001400040008000c001000"  # graphs
    "0c00000010000000100000001000000010000000"  # one graph
    "00000000000000000000000000000000"  # its four empty lists
    "01000000080000000400040004000000"  # buffers
)
_DECLARATION: Final = 68
_BYTE_MAX: Final = 127  # codes beyond it stand in the new field alone


def versions() -> dict[str, int]:
    """Return the newest version of each operation. Raises RuntimeUnsupported."""
    module, _ = backends.load_runtime()

    def has(code: int, version: int) -> bool:
        try:
            module.Interpreter(model_content=_declaring(code, version), num_threads=1)
        except (ValueError, RuntimeError):
            return False
        return True

    every = range(1, operations.VERSION_MAX + 1)
    newest = {
        name: max((version for version in every if has(code, version)), default=0)
        for code, name in enumerate(operations.NAMES)
    }
    return {name: version for name, version in newest.items() if version}


def _declaring(code: int, version: int) -> bytes:
    """Return a model that declares one operation and does nothing."""
    data = bytearray(_MODEL)
    struct.pack_into("<bxxxii", data, _DECLARATION, min(code, _BYTE_MAX), version, code)
    return bytes(data)


def main() -> None:
    """Print the versions as one text, or nothing where no interpreter is installed."""
    try:
        sys.stdout.write(operations.encode(versions()))
    except RuntimeUnsupported as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
