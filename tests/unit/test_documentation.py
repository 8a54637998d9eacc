"""The documentation keeps up with the code: no dead link, nothing left out."""

from __future__ import annotations

import argparse
import re
import runpy
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from urllib.parse import unquote

import msgspec
import pytest
import typer

from agent import cli as agent_cli
from agent import config as agent_config
from agent.inference import settings as worker_settings
from control_plane import config as server_config
from control_plane.cli import main as shoal_cli
from firmware_bundles.wire import messages

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _prose(page: Path) -> str:
    """The page without its examples."""
    return re.sub(r"^(`{3,}).*?^\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^()\s]+)\)", _prose(page)):
        if not re.match(r"[a-z]+:", target):
            yield target


def _anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ +(.+)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def _is_dead(page: Path, target: str) -> bool:
    path, _, fragment = unquote(target).partition("#")
    found = page.parent / path if path else page
    if not found.exists() or not found.resolve().is_relative_to(ROOT):
        return True
    return bool(fragment) and fragment not in _anchors(found)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_link_is_dead(page: Path) -> None:
    """A link inside the project leads to a file, and its fragment to a heading."""
    assert [target for target in _links(page) if _is_dead(page, target)] == []


def test_every_page_can_be_reached() -> None:
    """Whoever starts at the README finds every page by following links."""
    seen: set[Path] = set()
    waiting = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [page.parent / target.partition("#")[0] for target in _links(page)]
    assert [_name(page) for page in PAGES if page.resolve() not in seen] == []


@pytest.mark.parametrize(
    ("page", "script"),
    [
        ("reference/errors.md", "error_table.py"),
        ("reference/events.md", "event_table.py"),
        ("explanation/lifecycle.md", "lifecycle_diagram.py"),
        ("reference/rollout.schema.json", "rollout_schema.py"),
        ("reference/checks.md", "check_table.py"),
    ],
)
def test_a_generated_page_is_what_its_script_writes(page: str, script: str) -> None:
    """Tables and diagrams come from the code: scripts/SCRIPT > docs/PAGE."""
    made = runpy.run_path(str(ROOT / "scripts" / script))
    assert (ROOT / "docs" / page).read_text() == made["page"]()


def _shoal_commands() -> Iterator[str]:
    for noun in shoal_cli.NOUNS:
        command = typer.main.get_command(shoal_cli.build(noun))
        found = command.commands[noun]  # type: ignore[attr-defined]  # a group of nouns
        verbs = getattr(found, "commands", None)
        yield from (f"shoal {noun} {verb}" for verb in verbs) if verbs else [f"shoal {noun}"]


def _agent_commands() -> Iterator[str]:
    for action in agent_cli._parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from (f"shoal-agent {verb}" for verb in action.choices)


@pytest.mark.parametrize("list_commands", [_shoal_commands, _agent_commands])
def test_every_command_is_in_the_reference(list_commands: type[Iterator[str]]) -> None:
    """The page of commands leaves none out."""
    text = (REFERENCE / "commands.md").read_text()
    commands = list(list_commands())
    assert len(commands) > 3
    assert [name for name in commands if not re.search(rf"`{name}[ `]", text)] == []


@pytest.mark.parametrize(
    ("prefix", "settings"),
    [
        ("SHOAL_AGENT_", agent_config.Config),
        ("SHOAL_INFERENCE_", worker_settings.Settings),
        ("SHOAL_", server_config.Config),
    ],
)
def test_every_setting_is_in_the_reference(prefix: str, settings: type) -> None:
    """The page of settings has a row for each, with its default."""
    rows = {row[0].strip("`"): row[1] for row in _rows(_section(prefix))[2:]}
    numbers = {name: float(shown) for name, shown in rows.items() if re.fullmatch(r"[\d.]+", shown)}
    known = {field.name: field.default for field in fields(settings)}
    assert set(rows) == set(known)
    assert numbers == {name: known[name] for name in numbers}


@pytest.mark.parametrize(
    ("prefix", "ranges"),
    [("SHOAL_AGENT_", agent_config._RANGES), ("SHOAL_INFERENCE_", worker_settings._RANGES)],
)
def test_every_range_is_in_the_reference(
    prefix: str, ranges: dict[str, tuple[float, float]]
) -> None:
    """A number that is refused outside a range has that range in its row."""
    shown = {
        row[0].strip("`"): tuple(float(_power(end)) for end in row[2].split(" to "))
        for row in _rows(_section(prefix))
        if " to " in row[2]
    }
    assert shown == ranges


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_row_of_a_table_loses_a_cell(page: Path) -> None:
    """Each row has as many cells as the head: what is more would not be shown."""
    for table in re.findall(r"(?:^\|.*\n)+", _prose(page), flags=re.MULTILINE):
        assert {len(row) for row in _rows(table)} == {len(_rows(table)[0])}, table


def test_every_field_of_a_message_is_in_the_reference() -> None:
    """The page of messages names each, among the parts of a message too."""
    named = set(re.findall(r"`(\w+)`", (REFERENCE / "wire.md").read_text()))
    kinds = [each for each in vars(messages).values() if isinstance(each, type)]
    said = [each for each in kinds if issubclass(each, msgspec.Struct)]
    assert len(said) > 10
    missing = {each.__name__: {*each.__struct_fields__} - named for each in said}
    assert {name: fields for name, fields in missing.items() if fields} == {}


def _section(prefix: str) -> str:
    """The part of the page of settings that is about one program."""
    sections = re.split(r"^## ", (REFERENCE / "settings.md").read_text(), flags=re.MULTILINE)
    (section,) = (each for each in sections if f"`{prefix}NAME`" in each.splitlines()[0])
    return section


def _rows(text: str) -> list[list[str]]:
    """The cells of a table's rows; a bar within one stands behind a backslash."""
    lines = [each for each in text.splitlines() if each.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])] for line in lines]


def _power(text: str) -> int | float:
    """A number as the tables write it: 2^40, 0.05."""
    base, _, exponent = text.partition("^")
    return int(base) ** int(exponent) if exponent else float(base)
