"""`shoal-agent trust` against a real HTTP server and repositories that python-tuf made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent import cli
from support.trust_tool import Tool
from support.tuf_repository import TufRepository

PAST = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(params=[True, False], ids=["consistent", "plain"])
def repository(request: pytest.FixtureRequest) -> TufRepository:
    """A repository, with consistent snapshots and without."""
    return TufRepository(is_consistent=request.param)


@pytest.fixture
def tool(
    repository: TufRepository, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Tool]:
    """The command, initialised."""
    with repository.serving() as url:
        tool = Tool(repository, url, tmp_path, capsys)
        assert tool.init() == 0
        yield tool


def test_init_asks_nobody_and_keeps_the_root_as_it_is(tool: Tool) -> None:
    """The file's own signatures are all that can be checked."""
    assert tool.repository.requests == []
    assert (tool.metadata / "root.json").read_bytes() == tool.repository.first_root


def test_init_refuses_what_is_no_root(tool: Tool, tmp_path: Path) -> None:
    """Rubbish, another role, an unsigned root: nothing of it is trusted."""
    tool.metadata = tmp_path / "other"
    unsigned = json.loads(tool.repository.first_root)
    unsigned["signatures"] = []
    for data in (b"", b"{}", tool.repository.files["/metadata/timestamp.json"]):
        tool.root_file.write_bytes(data)
        assert tool.init() == 1
    tool.root_file.write_text(json.dumps(unsigned))
    assert tool.init() == 1
    assert not tool.metadata.exists()


def test_the_same_init_again_forgets_nothing(tool: Tool) -> None:
    """A script may say it before every refresh."""
    tool.repository.rotate("timestamp")
    tool.repository.publish()
    assert tool.refresh() == 0
    assert tool.init() == 0
    assert tool.versions()["root"] == 2
    (tool.metadata / "root.json").write_bytes(b"")
    assert tool.init() == 0
    assert tool.refresh() == 0
    assert tool.versions()["root"] == 2


def test_refresh_without_init_is_refused(tool: Tool, tmp_path: Path) -> None:
    """Trust has to begin somewhere."""
    tool.metadata = tmp_path / "other"
    assert tool.refresh() == 1
    assert "init" in tool.said


def test_metadata_is_kept_as_received_under_unversioned_names(tool: Tool) -> None:
    """And no other JSON file lies in the folder."""
    assert tool.refresh() == 0
    assert tool.versions() == {"root": 1, "snapshot": 1, "targets": 1, "timestamp": 1}
    served = tool.repository.files
    for role in ("timestamp", "snapshot", "targets", "root"):
        data = (tool.metadata / f"{role}.json").read_bytes()
        assert data in {served[name] for name in served if name.endswith(f"{role}.json")}


def test_an_unchanged_repository_costs_two_requests(tool: Tool) -> None:
    """The next root and the timestamp tell that nothing is new."""
    assert tool.refresh() == 0
    tool.repository.requests.clear()
    assert tool.refresh() == 0
    assert tool.repository.requests == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_root_is_followed_through_every_version(tool: Tool) -> None:
    """Each is signed by the one before it; old keys of the online roles end on the way."""
    for role in ("root", "timestamp", "root", "snapshot", "targets"):
        tool.repository.rotate(role)
    tool.repository.bump()
    assert tool.refresh() == 0
    assert tool.versions() == {"root": 6, "snapshot": 2, "targets": 2, "timestamp": 2}


def test_a_root_that_the_former_did_not_sign_is_refused(tool: Tool) -> None:
    """What came before it stays trusted."""
    tool.repository.rotate("timestamp")
    tool.repository.publish()
    stranger = TufRepository()
    stranger.root.version = 3
    stranger.publish_root()
    tool.repository.files["/metadata/3.root.json"] = stranger.files["/metadata/3.root.json"]
    assert tool.refresh() == 1
    assert tool.versions() == {"root": 2}


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_an_expired_role_is_refused(tool: Tool, role: str) -> None:
    """A frozen repository is noticed by the machine's clock."""
    repository = tool.repository
    assert tool.refresh() == 0
    if role == "root":
        repository.root.expires = PAST
        repository.root.version += 1
        repository.publish_root()
    else:
        getattr(repository, role).expires = PAST
        repository.bump()
    assert tool.refresh() == 1
    assert "trust.expired" in tool.said
    assert role == "root" or tool.versions()[role] == 1


def test_an_expired_root_is_a_step_on_the_way(tool: Tool) -> None:
    """Only the last root has to be good today (TUF 5.3.10)."""
    repository = tool.repository
    repository.root.expires = PAST
    repository.root.version += 1
    repository.publish_root()
    repository.root.expires = repository.later
    repository.rotate("timestamp")
    repository.publish()
    assert tool.refresh() == 0
    assert tool.versions()["root"] == 3


@pytest.mark.parametrize(
    "lost",
    [(), ("timestamp",), ("timestamp", "snapshot"), ("timestamp", "snapshot", "targets")],
    ids="-".join,
)
@pytest.mark.parametrize("how", ["emptied", "deleted"])
def test_old_metadata_never_comes_back(tool: Tool, lost: tuple[str, ...], how: str) -> None:
    """A cache that was emptied or deleted does not let it in either."""
    former = dict(tool.repository.files)
    tool.repository.bump()
    assert tool.refresh() == 0
    for role in lost:
        path = tool.metadata / f"{role}.json"
        path.write_bytes(b"") if how == "emptied" else path.unlink()
    recent, tool.repository.files = tool.repository.files, former
    assert tool.refresh() == 1
    assert "trust.rollback" in tool.said
    assert 1 not in {
        json.loads(path.read_bytes())["signed"]["version"]
        for path in tool.metadata.glob("*.json")
        if path.name != "root.json" and path.stat().st_size
    }
    tool.repository.files = recent
    assert tool.refresh() == 0


def test_lost_floors_are_no_way_back(tool: Tool) -> None:
    """Without them nobody knows what was seen, so only a new beginning helps."""
    assert tool.refresh() == 0
    (tool.metadata / "shoal-floors").write_bytes(b"")
    assert tool.refresh() == 1
    (tool.metadata / "shoal-floors").unlink()
    assert tool.refresh() == 1
    assert tool.init() == 0
    assert tool.refresh() == 0


@pytest.mark.parametrize("rotated", [("timestamp",), ("snapshot",), ("timestamp", "snapshot")])
def test_owners_recover_from_a_fast_forward(tool: Tool, rotated: tuple[str, ...]) -> None:
    """New keys for timestamp or snapshot let the numbers begin again (TUF 5.3.11)."""
    repository = tool.repository
    repository.timestamp.version = repository.snapshot.version = 2**40
    repository.targets.version = 2**40
    repository.publish()
    assert tool.refresh() == 0
    repository.timestamp.version = repository.snapshot.version = repository.targets.version = 2
    repository.publish()
    assert tool.refresh() == 1
    for role in rotated:
        repository.rotate(role)
    repository.publish()
    assert tool.refresh() == 0
    assert tool.versions() == {
        "root": 1 + len(rotated),
        "snapshot": 2,
        "targets": 2,
        "timestamp": 2,
    }


def test_a_key_that_is_only_added_lets_nothing_go_back(tool: Tool) -> None:
    """No trust was taken away."""
    repository = tool.repository
    repository.timestamp.version = 9
    repository.publish()
    assert tool.refresh() == 0
    added = TufRepository().signers["timestamp"][0]
    repository.root.add_key(added.public_key, "timestamp")
    repository.root.version += 1
    repository.publish_root()
    repository.timestamp.version = 3
    repository.publish()
    assert tool.refresh() == 1
    assert "trust.rollback" in tool.said


@pytest.mark.parametrize("status", [403, 404, 500])
def test_only_a_missing_root_is_the_end_of_the_chain(tool: Tool, status: int) -> None:
    """A server that fails might hide a newer root."""
    tool.repository.broken["/metadata/2.root.json"] = status
    assert tool.refresh() == (1 if status == 500 else 0)


def test_a_missing_or_endless_file_is_refused(tool: Tool) -> None:
    """Neither is taken for good."""
    files = tool.repository.files
    timestamp = files.pop("/metadata/timestamp.json")
    assert tool.refresh() == 1
    files["/metadata/timestamp.json"] = timestamp + b" " * 20_000
    assert tool.refresh() == 1
    files["/metadata/timestamp.json"] = b"[" * 10_000
    assert tool.refresh() == 1
    files["/metadata/timestamp.json"] = timestamp
    assert tool.refresh() == 0


def test_mixed_snapshots_are_refused(tool: Tool) -> None:
    """The timestamp names the snapshot by its hash, the snapshot every other role."""
    before = dict(tool.repository.files)
    tool.repository.targets.unrecognized_fields["note"] = "changed"
    tool.repository.publish()
    for role in ("snapshot", "targets"):
        (name,) = (each for each in before if each.endswith(f"{role}.json"))
        mixed = {**tool.repository.files, name: before[name]}
        assert mixed != before
        recent, tool.repository.files = tool.repository.files, mixed
        assert tool.refresh() == 1
        assert "trust.digest_mismatch" in tool.said
        tool.repository.files = recent


def test_targets_are_fetched_once_after_one_refresh(tool: Tool) -> None:
    """Several names share the refresh; what lies there unchanged is not asked for again."""
    tool.repository.add_target("one", b"first")
    tool.repository.add_target("two", b"second")
    tool.repository.publish()
    assert tool.download("one", "two") == 0
    requests = tool.repository.requests
    assert sum("timestamp" in path for path in requests) == 1
    assert (tool.targets / "one").read_bytes() == b"first"
    requests.clear()
    assert tool.download("two", "one") == 0
    assert not any("/targets/" in path for path in requests)
    (tool.targets / "one").write_bytes(b"FIRST")
    assert tool.download("one") == 0
    assert (tool.targets / "one").read_bytes() == b"first"


def test_the_first_failure_ends_a_download(tool: Tool) -> None:
    """What stood before it is there, what stands behind it is not asked for."""
    for name in ("one", "two", "three"):
        tool.repository.add_target(name, name.encode())
    tool.repository.publish()
    (path,) = (each for each in tool.repository.files if each.endswith("two"))
    del tool.repository.files[path]
    assert tool.download("one", "two", "three") == 1
    assert tool.stored() == ["one"]


@pytest.mark.parametrize("damage", [b"evil!", b"first and more", b"fi", b""])
def test_a_damaged_target_is_refused(tool: Tool, damage: bytes) -> None:
    """Wrong bytes, too many or too few: nothing of them stays."""
    tool.repository.add_target("one", b"first")
    tool.repository.publish()
    (path,) = (each for each in tool.repository.files if each.endswith("one"))
    tool.repository.files[path] = damage
    assert tool.download("one") == 1
    assert tool.stored() == []


@pytest.mark.parametrize("name", ["a/b/c.txt", "../../escape", "/absolute", "..", ".", "ä b%2F"])
def test_no_target_name_leaves_the_folder(tool: Tool, name: str) -> None:
    """Whatever a repository calls its targets, they are files in one folder."""
    tool.repository.delegate("all", ["*", "*/*", "*/*/*"])
    tool.repository.add_target(name, b"content")
    tool.repository.publish()
    tool.download(name)
    inside = [path for path in tool.targets.rglob("*") if path.is_file()]
    assert [path.parent for path in inside] == [tool.targets] * len(inside)
    around = {path.name for path in tool.metadata.parent.iterdir()}
    assert around <= {"metadata", "targets", "first-root"}


def test_a_long_target_name_is_kept_under_its_digest(tool: Tool) -> None:
    """The file system's limit is not the repository's affair."""
    name = "/".join(["x" * 100] * 5)
    tool.repository.add_target(name, b"content")
    tool.repository.publish()
    assert tool.download(name) == 0
    assert len(tool.stored()) == 1


def test_a_target_that_nobody_lists_is_an_error(tool: Tool) -> None:
    """Also one with an empty name, and none at all."""
    assert tool.download("nothing") == 1
    assert tool.download("") == 1
    assert tool.download() == 1
    assert not tool.targets.exists()


def test_delegations_are_followed_by_pattern_and_order(tool: Tool) -> None:
    """Depth first, the first that lists it wins, a terminating role ends the search."""
    repository = tool.repository
    repository.delegate("first", ["a/*"])
    repository.delegate("deep", ["a/*"], parent="first")
    repository.delegate("last", ["a/*", "b/*"], terminating=True)
    repository.delegate("never", ["b/*"])
    repository.add_target("a/x", b"of last", "last")
    repository.add_target("a/x", b"of deep", "deep")
    repository.add_target("b/y", b"of never", "never")
    repository.add_target("c/z", b"outside", "last")
    repository.bump()
    assert tool.download("a/x") == 0
    assert (tool.targets / "a%2Fx").read_bytes() == b"of deep"
    assert set(tool.versions()) >= {"first", "deep"}
    assert tool.download("b/y") == 1
    assert tool.download("c/z") == 1


@pytest.mark.parametrize("role", ["?", "#", "/delegated", "../delegated", "ä ö"])
def test_unusual_role_names_stay_in_the_folder(tool: Tool, role: str) -> None:
    """A role's name is escaped, in addresses and in file names."""
    tool.repository.delegate(role, ["*"])
    tool.repository.add_target("one", b"first", role)
    tool.repository.bump()
    assert tool.download("one") == 0
    assert all(path.parent == tool.metadata for path in tool.metadata.rglob("*"))


def test_a_delegated_role_never_goes_back(tool: Tool) -> None:
    """Not even when snapshot and its own file were lost."""
    repository = tool.repository
    repository.delegate("role", ["*"])
    repository.add_target("one", b"first", "role")
    repository.bump()
    repository.bump()
    assert tool.download("one") == 0
    for name in ("snapshot", "timestamp", "role"):
        (tool.metadata / f"{name}.json").unlink()
    repository.delegated["role"].version = 1
    repository.snapshot.version += 1
    repository.timestamp.version += 1
    repository.publish()
    assert tool.download("one") == 1
    assert "trust.rollback" in tool.said


def test_another_root_begins_anew(tool: Tool) -> None:
    """Nothing of the former repository is held against the new one."""
    tool.repository.bump()
    assert tool.refresh() == 0
    other = TufRepository()
    with other.serving() as url:
        tool.url = url
        tool.root_file.write_bytes(other.first_root)
        assert tool.init() == 0
        assert tool.versions() == {"root": 1}
        assert tool.refresh() == 0
    assert tool.versions()["timestamp"] == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["refresh"],
        ["--metadata-dir", "D", "refresh"],
        ["--metadata-dir", "D", "fly"],
        ["--metadata-dir", "D", "init"],
        ["--metadata-dir", "D", "init", "absent"],
        ["--metadata-dir", "D", "--metadata-url", "nonsense", "refresh"],
    ],
)
def test_a_wrong_call_is_one_line_and_status_1(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    """Scripts know two statuses."""
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(["trust", *arguments])
    except SystemExit as ended:
        status = int(ended.code or 0)
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("error: ")


def test_a_server_that_does_not_answer_is_one_line(tool: Tool) -> None:
    """The network's fault is told like any other."""
    tool.url = "http://127.0.0.1:1"
    assert tool.refresh() == 1
    assert "127.0.0.1" in tool.said


def test_a_repository_far_in_the_future_is_not_our_clocks_fault(tool: Tool) -> None:
    """Only the end of a role's life is judged."""
    tool.repository.timestamp.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(
        days=36500
    )
    tool.repository.bump()
    assert tool.refresh() == 0
