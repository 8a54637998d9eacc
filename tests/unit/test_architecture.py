"""The shape of the code: sizes, names, docstrings, and that the import contracts bind real modules.

Who may import whom is import-linter's (pyproject.toml); style and types are ruff's and mypy's.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "control_plane", "firmware_bundles")
FOLDERS = (*PACKAGES, "tests", "scripts")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
FORBIDDEN_NAMES = frozenset({"base", "common", "helper", "helpers", "manager", "util", "utils"})

# Modules that import contracts name and that are still to come: exactly those that are not there.
PLANNED: frozenset[str] = frozenset()


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def _functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _shown(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_no_file_is_longer_than_the_cap() -> None:
    """A file holds one concept; what grows beyond the cap holds two."""
    sizes = {_shown(file): len(file.read_text().splitlines()) for file in _files(*FOLDERS)}
    assert {file: size for file, size in sizes.items() if size > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_the_cap() -> None:
    """A function is read in one look."""
    sizes = {
        f"{_shown(file)}:{function.lineno} {function.name}": _lines(function)
        for file in _files(*FOLDERS)
        for function in _functions(file)
    }
    assert sizes
    assert {where: size for where, size in sizes.items() if size > FUNCTION_LINES_MAX} == {}


def test_no_module_is_a_drawer() -> None:
    """What is used twice has a noun; names that say nothing attract everything."""
    named = [
        _shown(path)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.stem in FORBIDDEN_NAMES and (path.suffix == ".py" or path.is_dir())
    ]
    assert named == []


def test_every_module_says_what_it_is_for() -> None:
    """The module's docstring says what lives there, and what does not."""
    silent = [_shown(file) for file in _files(*FOLDERS) if not ast.get_docstring(_tree(file))]
    assert silent == []


def test_every_test_states_its_rule() -> None:
    """A test's docstring is the sentence that it keeps true."""
    silent = [
        f"{_shown(file)} {function.name}"
        for file in _files("tests")
        if file.name.startswith("test_")
        for function in _functions(file)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert silent == []


def test_names_of_test_files_are_unique() -> None:
    """A failure's file name leads to one file."""
    names = [file.name for file in _files("tests") if file.name.startswith("test_")]
    assert len(names) == len(set(names))


def test_tests_are_no_package() -> None:
    """With an `__init__.py` the tests would see the source tree, not what is installed."""
    assert [_shown(file) for file in _files("tests") if file.name == "__init__.py"] == []


def _contracted_modules() -> set[str]:
    """Every module of ours that an import contract names, wildcards left out."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    names = set()
    for contract in contracts:
        prefixes = [f"{container}." for container in contract.get("containers", [])] or [""]
        layers = " ".join(contract.get("layers", []))
        names |= {prefix + name for name in re.findall(r"[\w.]+", layers) for prefix in prefixes}
        for key in ("source_modules", "forbidden_modules"):
            names |= set(contract.get(key, []))
        for expression in contract.get("ignore_imports", []):
            names |= {side.removesuffix(".**") for side in expression.split(" -> ")}
    return {name for name in names if name.split(".")[0] in PACKAGES}


def _exists(module: str) -> bool:
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_import_contracts_bind_modules_that_exist() -> None:
    """A contract on a module that was renamed would keep nothing, and say nothing."""
    modules = _contracted_modules()
    assert {"agent", "control_plane.cli", "firmware_bundles.wire"} <= modules
    assert {name for name in modules if not _exists(name)} == PLANNED


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_imports_more_than_it_declares(package: str) -> None:
    """What the code imports is ours, the standard library's, or declared in pyproject.toml."""
    declared = _declared_imports()
    foreign = {
        f"{_shown(file)}: {name}"
        for file in _files(package)
        if "samples" not in file.parts
        for name in _imported(_tree(file))
        if name not in sys.stdlib_module_names and name not in PACKAGES and name not in declared
    }
    assert foreign == set()


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def _declared_imports() -> set[str]:
    """The import names of the declared distributions."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=;]", line)[0].strip().replace("-", "_") for line in lines}
    different = {"paho_mqtt": "paho", "pyyaml": "yaml", "python_multipart": "multipart"}
    # Starlette is FastAPI's public ground, and its classes are meant to be used with it.
    return {different.get(name, name) for name in names} | {"starlette"}
