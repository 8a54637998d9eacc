"""The runner of documentation pages: it must not leave out what a reader would type."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import pages
from support.pages import Shell, Step

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
FOLLOWED = ("rotate-keys", "lost-or-stolen-key", "revoke-a-device", "back-up-and-restore")
PAGE = """\
# A page
```console
$ echo one \\
    two
one two
$ echo enrol_0123456789_{secret}
```
<!-- then: burn house -->
```
$ never run
```
```console
$ echo got enrol_... in WORD
```
""".format(secret="ab" * 32)


def test_commands_and_hooks_come_in_the_page_s_order(tmp_path: Path) -> None:
    """Output and plain blocks are for the reader alone."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    first, hook, last = pages.steps(page)
    assert first.script.splitlines()[:2] == ["echo one \\", "    two"]
    assert (hook, last.script) == (Step(hook=("burn", "house")), "echo got enrol_... in WORD")


def test_what_a_command_printed_stands_in_for_the_example(tmp_path: Path) -> None:
    """Tokens of the run replace those of the page, words those of the installation."""
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    burnt: list[str] = []
    environment = {"PATH": "/usr/bin:/bin"}
    printed = pages.follow(
        page, Shell(tmp_path, environment, {"WORD": "place"}, {"burn": burnt.append})
    )
    assert burnt == ["house"]
    assert f"got enrol_0123456789_{'ab' * 32} in place" in printed


def test_a_command_that_fails_fails_the_page(tmp_path: Path) -> None:
    """Also in the middle of a block."""
    page = tmp_path / "page.md"
    page.write_text("```console\n$ false\n$ true\n```\n")
    with pytest.raises(AssertionError, match="ended with 1"):
        pages.follow(page, Shell(tmp_path, {"PATH": "/usr/bin:/bin"}, {}, {}))


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_page_that_is_followed_hides_no_command(name: str) -> None:
    """What begins with a prompt stands in a block that a test runs."""
    text = (HOW_TO / f"{name}.md").read_text()
    scripts = "\n".join(step.script for step in pages.steps(HOW_TO / f"{name}.md"))
    prompts = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    assert prompts
    assert [line for line in prompts if line not in scripts] == []
