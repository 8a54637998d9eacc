"""The TUF client workflow (specification 1.0, section 5) in detail, by `shoal-agent trust`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import MetaFile

from support.trust_tool import Tool
from support.tuf_repository import TufRepository

Signers = list[CryptoSigner]
TOP = ("root", "timestamp", "snapshot", "targets")


@pytest.fixture
def repository() -> TufRepository:
    """A repository with consistent snapshots."""
    return TufRepository()


@pytest.fixture
def tool(
    repository: TufRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Tool]:
    """The command, initialised, with its folders made before it as a suite does."""
    for name in ("metadata", "targets"):
        (tmp_path / name).mkdir()
    with repository.serving() as url:
        tool = Tool(repository, url, tmp_path, capsys)
        assert tool.init() == 0
        yield tool


def _signers(count: int) -> Signers:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


def _give(repository: TufRepository, role: str, named: Signers, threshold: int) -> None:
    """Let the root name these keys for a role."""
    for keyid in list(repository.root.roles[role].keyids):
        repository.root.revoke_key(keyid, role)
    for signer in named:
        repository.root.add_key(signer.public_key, role)
    repository.root.roles[role].threshold = threshold


@pytest.mark.parametrize(
    ("role", "kept"),
    [
        ("timestamp", {"root"}),
        ("snapshot", {"root", "timestamp"}),
        ("targets", {"root", "timestamp", "snapshot"}),
    ],
)
def test_a_role_that_nobody_signed_ends_the_refresh_there(
    tool: Tool, role: str, kept: set[str]
) -> None:
    """What stands before it in the workflow is kept."""
    tool.repository.signers[role] = []
    tool.repository.publish()
    assert tool.refresh() == 1
    assert set(tool.versions()) == kept


def test_a_new_root_that_nobody_signed_is_refused(tool: Tool) -> None:
    """The trusted one stays, and nothing after it is asked for."""
    tool.repository.root.version = 2
    tool.repository.signers["root"] = []
    tool.repository.publish_root()
    assert tool.refresh() == 1
    assert tool.versions() == {"root": 1}
    assert tool.repository.requests == ["/metadata/2.root.json"]


def test_other_content_under_the_same_version_is_not_taken(tool: Tool) -> None:
    """A timestamp counts by its version; nothing that the other one names is asked for."""
    assert tool.refresh() == 0
    before = (tool.metadata / "timestamp.json").read_bytes()
    tool.repository.timestamp.snapshot_meta = MetaFile(100)
    tool.repository._put("timestamp", tool.repository.timestamp, None)
    tool.repository.requests.clear()
    assert tool.refresh() == 0
    assert (tool.metadata / "timestamp.json").read_bytes() == before
    assert tool.repository.requests[-1] == "/metadata/timestamp.json"


def test_metadata_without_hashes_is_held_against_its_version(tool: Tool) -> None:
    """Hashes and lengths of metadata are optional (TUF 4.4)."""
    repository = tool.repository
    repository.snapshot.meta["targets.json"] = MetaFile(1)
    repository._put("snapshot", repository.snapshot, 1)
    repository.timestamp.snapshot_meta = MetaFile(1)
    repository._put("timestamp", repository.timestamp, None)
    assert tool.refresh() == 0
    repository.snapshot.version = 3
    repository._put("snapshot", repository.snapshot, 2)
    repository.timestamp.snapshot_meta = MetaFile(2)
    repository.timestamp.version = 2
    repository._put("timestamp", repository.timestamp, None)
    assert tool.refresh() == 1
    assert tool.versions()["snapshot"] == 1


def test_a_role_that_leaves_the_snapshot_is_refused(tool: Tool) -> None:
    """Once listed, a role stays listed (TUF 5.5.5)."""
    tool.repository.delegate("role", ["*"])
    tool.repository.bump()
    assert tool.refresh() == 0
    del tool.repository.delegated["role"]
    tool.repository.targets.delegations = None
    del tool.repository.snapshot.meta["role.json"]
    tool.repository.bump()
    assert tool.refresh() == 1
    assert tool.versions()["snapshot"] == 2


def test_fields_that_are_not_known_are_signed_as_well(tool: Tool) -> None:
    """They count in signatures and are kept (TUF 4)."""
    root = tool.repository.root
    root.unrecognized_fields["note"] = "value"
    key = root.keys[root.roles["root"].keyids[0]]
    key.unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    root.roles["snapshot"].unrecognized_fields["more"] = {"a": 1}
    root.version = 2
    tool.repository.publish_root()
    assert tool.refresh() == 0
    kept = json.loads((tool.metadata / "root.json").read_bytes())["signed"]
    assert (kept["version"], kept["note"]) == (2, "value")


@pytest.mark.parametrize(
    "make",
    [
        CryptoSigner.generate_ed25519,
        CryptoSigner.generate_ecdsa,
        CryptoSigner.generate_rsa,
        lambda: CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
    ],
    ids=["ed25519", "ecdsa", "rsa-pss", "rsa-pkcs1v15"],
)
def test_every_usual_kind_of_key_is_understood(
    tool: Tool, make: Callable[[], CryptoSigner]
) -> None:
    """For the root and for what it delegates to."""
    repository = tool.repository
    former = repository.signers["root"]
    for role in TOP:
        repository.signers[role] = [make()]
        _give(repository, role, repository.signers[role], 1)
    repository.root.version = 2
    repository.publish_root(*former)
    repository.bump()
    assert tool.refresh() == 0
    assert tool.versions() == {"root": 2, "snapshot": 2, "targets": 2, "timestamp": 2}


# Keys named by a root, threshold, keys that sign it: the first one is trusted.
@pytest.mark.parametrize(
    ("roots", "is_good"),
    [
        ([("1", 1, "1"), ("2", 1, "21"), ("2", 1, "2")], True),
        ([("1", 1, "134"), ("2", 1, "2134"), ("2", 1, "234")], True),
        ([("01234", 3, "024"), ("01234", 3, "014"), ("01234", 3, "013")], True),
        ([("01234", 3, "024"), ("01345", 3, "014")], True),
        ([("01234", 3, "024"), ("56789", 3, "024567"), ("56789", 3, "567")], True),
        ([("123", 1, "1"), ("123", 2, "12")], True),
        ([("123", 2, "12"), ("123", 1, "12"), ("123", 1, "1")], True),
        ([("1", 1, "1"), ("2", 1, "234")], False),
        ([("1", 1, "1"), ("2", 1, "134")], False),
        ([("01234", 3, "024"), ("01345", 3, "024")], False),
        ([("01234", 3, "024"), ("01345", 3, "045")], False),
        ([("123", 1, "1"), ("123", 2, "2")], False),
        ([("123", 2, "12"), ("123", 1, "1")], False),
    ],
    ids=lambda value: (
        str(value) if isinstance(value, bool) else "-".join(each[2] for each in value)
    ),
)
def test_former_and_new_root_keys_must_both_suffice(
    tool: Tool, roots: list[tuple[str, int, str]], *, is_good: bool
) -> None:
    """A root is signed by a threshold of the one before it and of its own (TUF 5.3.4)."""
    repository, keys = tool.repository, _signers(10)
    for version, (named, threshold, signing) in enumerate(roots, start=1):
        _give(repository, "root", [keys[int(each)] for each in named], threshold)
        repository.signers["root"] = [keys[int(each)] for each in signing]
        repository.root.version = version
        repository.publish_root()
    tool.root_file.write_bytes(repository.first_root)
    assert tool.init() == 0
    assert tool.refresh() == (0 if is_good else 1)
    last = len(roots) if is_good else len(roots) - 1
    trusted = (tool.metadata / "root.json").read_bytes()
    assert trusted == repository.files[f"/metadata/{last}.root.json"]


@pytest.mark.parametrize(
    ("named", "threshold", "signing", "is_good"),
    [
        ("2", 1, "2", True),
        ("1", 1, "314", True),
        ("01234", 3, "024", True),
        ("2", 1, "134", False),
        ("01345", 3, "024", False),
        ("01345", 3, "04", False),
        ("01", 3, "01", False),
    ],
)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_the_other_roles_need_their_threshold(
    tool: Tool, role: str, named: str, threshold: int, signing: str, *, is_good: bool
) -> None:
    """Signatures of keys that the root does not name count for nothing."""
    repository, keys = tool.repository, _signers(6)
    _give(repository, role, [keys[int(each)] for each in named], threshold)
    repository.signers[role] = [keys[int(each)] for each in signing]
    repository.root.version = 2
    repository.publish_root()
    repository.bump()
    assert tool.refresh() == (0 if is_good else 1)
    assert tool.versions()["root"] == 2
    assert tool.versions().get(role) == (2 if is_good else None)


@pytest.mark.parametrize("role", ["timestamp", "targets", "delegated"])
def test_one_key_under_many_ids_is_one_key(tool: Tool, role: str) -> None:
    """A threshold counts keys, not what they are called."""
    repository = tool.repository
    if role == "delegated":
        repository.delegate(role, ["*"])
    signer = repository.signers[role][0]
    aliases = []
    for number in range(3):
        public = deepcopy(signer.public_key)
        public.keyid = f"{number}" * 64
        aliases.append(CryptoSigner(signer._private_key, public))
    repository.signers[role] = [signer, *aliases]
    if role == "delegated":
        assert repository.targets.delegations is not None
        assert repository.targets.delegations.roles is not None
        for alias in aliases:
            repository.targets.add_key(alias.public_key, role)
        repository.targets.delegations.roles[role].threshold = 2
    else:
        _give(repository, role, repository.signers[role], 2)
    repository.add_target("one", b"first", role if role == "delegated" else "targets")
    repository.root.version = 2
    repository.publish_root()
    repository.bump()
    assert tool.download("one") == 1
    assert role not in tool.versions()
    assert tool.stored() == []


def test_an_id_that_is_named_twice_is_refused(tool: Tool) -> None:
    """Ids of a role are unique (TUF 4.3)."""
    repository = tool.repository
    repository.root.roles["snapshot"].keyids *= 2
    repository.root.version = 2
    repository.publish_root()
    assert tool.refresh() == 1


# Delegator, role, patterns, terminating; then the roles that a search for "missing" must ask for.
@pytest.mark.parametrize(
    ("delegations", "visited"),
    [
        (["targets-A"], "A"),
        (["targets-A", "targets-B", "B-C"], "ABC"),
        (["targets-A", "targets-B", "A-C", "A-D"], "ACDB"),
        (["targets-A", "targets-B", "A-C", "C-D"], "ACDB"),
        (["targets-A", "targets-B", "A-C!", "A-D"], "AC"),
        (["targets-A", "targets-B", "A-C!", "C-D"], "ACD"),
        (["targets-A:*.py", "targets-B", "A-C"], "B"),
        (["targets-A", "targets-B", "A-C:*.py", "C-D"], "AB"),
    ],
    ids="+".join,
)
def test_delegations_are_searched_depth_first(
    tool: Tool, delegations: list[str], visited: str
) -> None:
    """In the order of the delegator, each once, no further than a terminating one (TUF 5.6.7)."""
    repository = tool.repository
    for text in delegations:
        names, _, pattern = text.partition(":")
        parent, role = names.removesuffix("!").split("-")
        repository.delegate(role, [pattern or "*"], parent=parent, terminating=names.endswith("!"))
    repository.bump()
    assert tool.download("missing") == 1
    asked = [path.split("/")[-1] for path in repository.requests[4:]]
    assert asked == [f"2.{role}.json" for role in visited]


def _share(repository: TufRepository, *, is_signed_for_both: bool) -> None:
    """Let A and B both delegate to C, each under a key of its own."""
    for parent in ("A", "B"):
        repository.delegate(parent, [f"{parent.lower()}/*"])
    repository.delegate("C", ["a/*"], parent="A")
    of_a = repository.signers["C"]
    shared = repository.delegated["C"]
    repository.delegate("C", ["b/*"], parent="B")
    repository.delegated["C"] = shared
    repository.signers["C"] = [*of_a, *repository.signers["C"]] if is_signed_for_both else of_a
    repository.add_target("a/x", b"of a", "C")
    repository.add_target("b/y", b"of b", "C")
    repository.bump()


def test_a_role_counts_only_for_the_delegator_that_it_was_verified_for(tool: Tool) -> None:
    """In one run too: what A's key signed is nothing that B has said (TUF 5.6.7)."""
    _share(tool.repository, is_signed_for_both=False)
    assert tool.download("a/x", "b/y") == 1
    assert "trust.signature_invalid" in tool.said
    assert tool.stored() == ["a%2Fx"]
    assert tool.download("b/y", "a/x") == 1
    assert tool.stored() == ["a%2Fx"]


def test_a_role_may_serve_two_delegators_whose_keys_both_signed(tool: Tool) -> None:
    """It is fetched once."""
    _share(tool.repository, is_signed_for_both=True)
    assert tool.download("a/x", "b/y") == 0
    assert tool.stored() == ["a%2Fx", "b%2Fy"]
    assert sum("C.json" in path for path in tool.repository.requests) == 1


def test_an_expired_delegated_role_is_refused(tool: Tool) -> None:
    """What it lists is not fetched, and it is not kept; the refresh itself is good."""
    repository = tool.repository
    repository.delegate("late", ["late/*"])
    repository.delegated["late"].expires = datetime(2020, 1, 1, tzinfo=UTC)
    repository.add_target("late/x", b"content", "late")
    repository.bump()
    assert tool.refresh() == 0
    assert tool.download("late/x") == 1
    assert "trust.expired" in tool.said
    assert "late" not in tool.versions()
    assert tool.stored() == []


def test_a_target_that_changes_replaces_its_copy(tool: Tool) -> None:
    """Under the same name; what the owners did not sign never does."""
    repository = tool.repository
    for number in range(3):
        content = b"content %d" % number
        repository.add_target("path/one", content)
        repository.bump()
        assert tool.download("path/one") == 0
        assert [path.read_bytes() for path in tool.targets.iterdir()] == [content]
        (served,) = (name for name, data in repository.files.items() if data == content)
        repository.files[served] = b"evil"
        (tool.targets / "path%2Fone").write_bytes(b"damaged")
        assert tool.download("path/one") == 1
        (tool.targets / "path%2Fone").write_bytes(content)


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "a b", "ä"])
def test_names_of_roles_are_escaped_in_addresses(tool: Tool, role: str) -> None:
    """As one part of the path, whatever they hold."""
    tool.repository.delegate(role, ["*"])
    tool.repository.bump()
    assert tool.download("missing") == 1
    assert f"/metadata/2.{quote(role, safe='')}.json" in tool.repository.requests
    assert len(tool.versions()) == 5


def test_bytes_are_kept_however_they_are_written(tool: Tool) -> None:
    """Signatures cover the canonical form; the file stays what was received."""
    for name, data in tool.repository.files.items():
        if name == "/metadata/timestamp.json":
            tool.repository.files[name] = json.dumps(json.loads(data), indent=3).encode() + b"\n\n"
    assert tool.refresh() == 0
    kept = (tool.metadata / "timestamp.json").read_bytes()
    assert kept == tool.repository.files["/metadata/timestamp.json"]


def test_the_program_says_one_line_and_asks_nothing_at_init(
    tool: Tool, repository: TufRepository
) -> None:
    """As a process of its own: nothing but the reason on standard error."""
    command = [sys.executable, "-m", "agent.cli", "trust", "--metadata-dir", str(tool.metadata)]
    environment = {**os.environ, "PYTHONWARNINGS": "default"}

    def run(*arguments: str) -> tuple[int, int]:
        done = subprocess.run(
            [*command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, len(done.stderr.splitlines())

    url = ("--metadata-url", f"{tool.url}/metadata/")
    assert run("init", str(tool.root_file)) == (0, 0)
    assert repository.requests == []
    assert run(*url, "refresh") == (0, 0)
    target = ("--target-name", "no such", "--target-dir", str(tool.targets))
    base = ("--target-base-url", f"{tool.url}/targets/")
    assert run(*url, *target, *base, "download") == (1, 1)
    repository.files["/metadata/timestamp.json"] = b"[" * 9000
    assert run(*url, "refresh") == (1, 1)
