"""Which functions of the product turn bytes into values: found in its source.

The table of parsers has to reach each of them, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final

_PRODUCT: Final = Path(__file__).parents[3]
_FOLDERS: Final = ("agent", "control_plane", "firmware_bundles")
# What reads bytes, by the last part of its name. Ours are called parse... or decode...
_READERS: Final = frozenset({
    "b64decode", "convert", "decompressobj", "frombuffer", "from_bytes", "from_dict",
    "get_single_node", "load_der_pkcs7_certificates", "load_der_x509_csr", "load_pem_private_key",
    "load_pem_public_key", "load_pem_x509_certificate", "load_pem_x509_certificates",
    "load_pem_x509_csr", "loads", "unpack", "unpack_from", "ZipFile",
})  # fmt: skip
_OWN_NAMES: Final = re.compile(r"_?(parse|decode)(_.*)?")


def in_source() -> frozenset[str]:
    """Return all functions that read bytes, as module.function."""
    found: set[str] = set()
    for folder in _FOLDERS:
        for path in sorted((_PRODUCT / folder).rglob("*.py")):
            if "samples" not in path.parts:
                module = ".".join(path.relative_to(_PRODUCT).with_suffix("").parts)
                names = _functions(ast.parse(path.read_text()), (), in_function=False)
                found.update(f"{module}.{name}" for name in names)
    return frozenset(found)


def reached(call: Callable[[], object]) -> frozenset[str]:
    """Return the product's functions that `call` runs through, named as in `in_source`."""
    seen: set[str] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        module = str(frame.f_globals.get("__name__", ""))
        if event == "call" and module.split(".", 1)[0] in _FOLDERS:
            seen.add(f"{module}.{frame.f_code.co_qualname}")

    former = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(former)
    return frozenset(seen)


def _functions(node: ast.AST, scope: tuple[str, ...], *, in_function: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = (*scope, "<locals>", child.name) if in_function else (*scope, child.name)
            is_function = not isinstance(child, ast.ClassDef)
            if is_function and _OWN_NAMES.fullmatch(child.name):
                yield ".".join(inside)
            yield from _functions(child, inside, in_function=is_function)
            continue
        if in_function and _reads(child):
            yield ".".join(scope)
        yield from _functions(child, scope, in_function=in_function)


def _reads(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "decode":
        # A decoder takes bytes; the method of bytes takes at most the name of an encoding.
        return len(node.args) == 1 and not isinstance(node.args[0], ast.Constant)
    return getattr(node, "attr", getattr(node, "id", "")) in _READERS
