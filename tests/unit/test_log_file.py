"""The broker's log has an end."""

from __future__ import annotations

from pathlib import Path

from control_plane.broker.log_file import FORMER_SUFFIX, LogFile


def test_a_log_grows_no_further_than_two_files(tmp_path: Path) -> None:
    """The newest lines are there, in order; the oldest are given up."""
    path = tmp_path / "broker.log"
    log = LogFile(path, bytes_max=100)
    for number in range(1_000):
        log.append(b"line %d\n" % number)
    former = path.with_name(path.name + FORMER_SUFFIX)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, former.name}
    kept = (former.read_text() + path.read_text()).splitlines()
    assert kept == [f"line {number}" for number in range(1_000 - len(kept), 1_000)]
    assert 10 < len(kept) < 30
    assert log.last() == "line 999"


def test_the_last_words_are_read_from_the_end(tmp_path: Path) -> None:
    """Of a log that is not there, or that says nothing, there are none."""
    log = LogFile(tmp_path / "broker.log")
    assert log.last() == ""
    (tmp_path / "broker.log").touch()
    assert log.last() == ""
    log.append(b"x" * 100_000 + b"\nlast\n")
    assert log.last() == "last"


def test_a_log_that_cannot_be_written_ends_nobody(tmp_path: Path) -> None:
    """A folder that is gone: the line is lost."""
    log = LogFile(tmp_path / "gone" / "broker.log")
    log.append(b"line\n")
    assert log.last() == ""
