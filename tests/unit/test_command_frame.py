"""The `shoal` command's frame: options, help, errors in one line, exit codes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer

from control_plane.cli import main as command
from control_plane.cli.http import Api, error_class
from control_plane.cli.options import Options
from control_plane.cli.output import clean
from firmware_bundles import errors
from firmware_bundles.errors import ServerUnreachable, ShoalError

SAMPLE = Path(__file__).parents[2] / "firmware_bundles/samples/digits/v1"
BUILD = [
    "bundle", "build", "--family", "digits", "--version", "1",
    "--model", str(SAMPLE / "model.tflite"), "--golden", str(SAMPLE / "golden.npz"),
    "--labels", str(SAMPLE / "labels.txt"), "--heldout", str(SAMPLE / "heldout.npz"),
]  # fmt: skip


def run(*arguments: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        command.main(list(arguments))
    return int(ended.value.code or 0)


def test_help_lists_every_noun(capsys: pytest.CaptureFixture[str]) -> None:
    """Also those whose modules are heavy or absent: listing loads none of them."""
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(noun in shown for noun in command.NOUNS)


def test_help_stays_light() -> None:
    """`shoal --help` loads no cryptography, arrays or HTTP client."""
    code = (
        "import sys\nfrom control_plane.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'tuf', 'cryptography', 'numpy', 'httpx', 'fastapi', 'sqlalchemy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("bundle", "build"),
        ("bundle", "inspect"),
        ("bundle", "verify"),
        ("keys", "init"),
        ("keys", "upload"),
        ("keys", "show"),
        ("keys", "rotate"),
        ("keys", "add-family"),
        ("keys", "revoke-family"),
        ("release", "withdraw"),
        ("release", "floor"),
        ("release", "sign"),
        ("release", "publish"),
        ("release", "list"),
    ],
)
def test_every_command_has_help_with_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A person can begin from --help alone."""
    assert run(*words, "--help") == 0
    assert f"shoal {' '.join(words)}" in capsys.readouterr().out.split("Example", 1)[1]


def test_global_options_may_stand_anywhere() -> None:
    """They move to the front, up to a `--`."""
    given = ["release", "list", "--output", "json", "--token=t", "--", "--server"]
    assert command.globals_first(given) == [
        "--output", "json", "--token=t", "release", "list", "--", "--server",
    ]  # fmt: skip


def test_build_inspect_and_verify_answer_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Standard output holds one document and nothing else."""
    folder = str(tmp_path / "digits-1")
    answers = []
    for arguments in ([*BUILD, "--out", folder], ["bundle", "inspect", folder]):
        assert run(*arguments, "--output", "json") == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1]
    assert answers[0]["family"] == "digits"
    assert run("bundle", "verify", folder) == 0
    assert "verified" in capsys.readouterr().out


def test_a_broken_manifest_is_one_line_that_names_the_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """File and field, no traceback, and exit code 1."""
    folder = tmp_path / "digits-1"
    assert run(*BUILD, "--out", str(folder)) == 0
    manifest = folder / "manifest.json"
    document = json.loads(manifest.read_bytes()) | {"inputs": [{"name": "image"}]}
    manifest.write_text(json.dumps(document))
    capsys.readouterr()
    assert run("bundle", "verify", str(folder)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {manifest}: ")
    assert "$.inputs[0]" in lines[0]
    assert lines[0].endswith("(bundle.manifest_invalid)")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["bundle", "inspect", "/nowhere/at/all"], 1, "/nowhere/at/all/manifest.json"),
        ([*BUILD, "--out", "/"], 2, "exists already"),
        (["bundle", "nothing"], 2, "nothing"),
        (["nothing"], 2, "nothing"),
        (["release", "list", "--server", "no address"], 2, "is no address"),
        (["release", "list", "--server", "http://host:port"], 2, "cannot use server"),
        (["release", "list", "--output", "xml"], 2, "xml"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clear message on standard error and the exit code that scripts rely on."""
    assert run(*arguments) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelUnusable, 1),
        (errors.ConflictError, 1),
        (errors.RolloutInvalid, 2),
        (errors.RollbackAttempt, 3),
        (errors.BrokerUnreachable, 4),
        (errors.NotAuthenticated, 5),
    ],
)
def test_each_branch_of_the_error_tree_has_its_exit_code(
    error: type[ShoalError], code: int
) -> None:
    """0 done, 1 failed, 2 usage, 3 refused, 4 try later, 5 not authorised."""
    assert command.exit_code(error("x")) == code


def test_a_problem_becomes_the_error_that_it_names() -> None:
    """The server's stable code, sentence and hint arrive as one of our errors."""
    problem = {"code": "trust.expired", "detail": "too old", "hint": "sign again", "status": 422}
    transport = httpx.MockTransport(lambda _: httpx.Response(422, json=problem))
    with (
        Api(Options(), transport=transport) as api,
        pytest.raises(errors.MetadataExpired, match="too old") as caught,
    ):
        api.get("releases")
    assert caught.value.hint == "sign again"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail":"x"}'])
def test_an_answer_that_is_no_problem_document_is_told_as_it_is(body: bytes) -> None:
    """Whatever stands between us and the server may answer: no traceback comes of it."""
    transport = httpx.MockTransport(lambda _: httpx.Response(502, content=body))
    with Api(Options(), transport=transport) as api, pytest.raises(ServerUnreachable, match="502"):
        api.get("releases")


def test_unknown_codes_fall_back_to_their_branch() -> None:
    """A newer server's refusal keeps its meaning for the exit code."""
    assert error_class("trust.of_tomorrow") is errors.TrustError
    assert error_class("conflict") is errors.ConflictError
    assert error_class("what.is.this") is ShoalError


def test_nothing_printed_moves_the_cursor() -> None:
    """A name from a device cannot write over the terminal."""
    assert clean("dev\x1b[2J\r\n1") == "dev [2J  1"


@pytest.mark.parametrize("server", ["", "ftp://x", "localhost:8080"])
def test_an_address_that_is_none_is_a_wrong_setting(server: str) -> None:
    """Nobody has to wait for an answer from nowhere."""
    with pytest.raises(errors.ConfigInvalid):
        Api(Options(server=server))


def test_a_token_that_is_no_header_is_not_quoted() -> None:
    """A token is a secret, whatever is wrong with it."""
    with pytest.raises(errors.NotAuthenticated) as refused:
        Api(Options(token="shoal_abc\nsecret"))
    assert "secret" not in refused.value.message


def test_a_malformed_name_is_a_mistake_in_usage() -> None:
    """What the server calls malformed was typed by somebody."""
    assert command.exit_code(errors.Malformed("cohort name 'Bad' is not valid")) == 2


def test_no_passphrase_and_nobody_to_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a pipeline the command says which variable to set, instead of asking."""
    monkeypatch.delenv("SHOAL_KEY_PASSPHRASE", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert run("keys", "init", "--out", str(tmp_path / "keys"), "--family", "digits") == 2
    assert "SHOAL_KEY_PASSPHRASE" in capsys.readouterr().err


def test_every_command_shows_an_example() -> None:
    """Who asks a command for help sees a line that works, beginning with its own words."""
    for noun in command.NOUNS:
        found = typer.main.get_command(command.build(noun))
        group = getattr(found, "commands")[noun]  # noqa: B009 click's groups are untyped here
        verbs = getattr(group, "commands", {"": group})
        for verb, each in verbs.items():
            words = f"shoal {noun} {verb}".strip()
            assert f"  {words} " in f"{each.help}\n".replace("\n", " \n"), words
