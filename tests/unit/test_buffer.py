"""The buffer keeps to its quota, counts what it drops, and finds what it holds."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent import buffer_text
from agent.store import ballast, buffer, buffer_facts
from agent.store.buffer import Buffer, Kept, Sealed
from agent.store.journal import Position
from firmware_bundles.errors import StateDamaged
from firmware_bundles.wire import codec
from firmware_bundles.wire.messages import SegmentKey, SegmentKind
from support import segments, small_disk, spool

INCARNATION = "0123456789abcdef"


def test_a_full_buffer_drops_the_oldest_predictions_and_counts_them(tmp_path: Path) -> None:
    """Within the quota the newest rows stay; every dropped row is counted."""
    store = spool.make(tmp_path, bytes_max=512 * 1024)
    label = _sealed(SegmentKind.LABELS, 1)
    store.seal(INCARNATION, Position(), [label], [])
    for number in range(1, 201):
        store.seal(INCARNATION, Position(1, number), [_sealed(SegmentKind.PREDICTIONS, number)], [])
    facts = store.facts()
    kept = {stored.body for stored in store.waiting(1000)}
    assert (tmp_path / "buffer.db").stat().st_size <= 512 * 1024
    assert facts.rows_dropped == 10 * (201 - facts.segments)
    assert store.count("dropped_predictions_rows") == facts.rows_dropped
    assert facts.rows_dropped > 0
    assert label.body in kept
    assert _sealed(SegmentKind.PREDICTIONS, 200).body in kept
    assert _sealed(SegmentKind.PREDICTIONS, 1).body not in kept
    assert store.cursor(INCARNATION) == Position(1, 200)
    store.close()


def test_an_acknowledged_segment_is_gone_and_a_refused_one_parked(tmp_path: Path) -> None:
    """Only the named segment leaves; a parked one stays, is counted, and waits no more."""
    store = spool.make(tmp_path)
    first, second = (_sealed(SegmentKind.PREDICTIONS, number) for number in (1, 2))
    store.seal(INCARNATION, Position(), [first, second], [])
    store.acknowledge(first.key)
    store.park(second.key, "wire.malformed: no")
    store.park(second.key, "wire.malformed: no")
    assert store.waiting(10) == []
    assert store.facts().segments == 1
    assert store.count("segments_parked") == 1
    store.close()


def test_the_same_segment_cannot_be_sealed_twice(tmp_path: Path) -> None:
    """A key names one segment for ever."""
    store = spool.make(tmp_path)
    store.seal(INCARNATION, Position(), [_sealed(SegmentKind.WINDOW, 1)], [])
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.seal(INCARNATION, Position(), [_sealed(SegmentKind.WINDOW, 1)], [])
    store.close()


def test_the_schema_is_made_in_a_child_process(tmp_path: Path) -> None:
    """`ensure` makes the tables once, without loading sqlite-utils into this process."""
    script = (
        "import sys; from pathlib import Path; from agent.store import buffer\n"
        f"path = Path({str(tmp_path / 'buffer.db')!r})\n"
        "buffer.ensure(path); buffer.ensure(path)\n"
        "assert buffer.Buffer(path).facts().segments == 0\n"
        "assert 'sqlite_utils' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_buffer_that_cannot_be_made_is_a_clean_refusal(tmp_path: Path) -> None:
    """A folder that is not there ends in an error of the project."""
    with pytest.raises(StateDamaged, match="cannot be set up"):
        buffer.ensure(tmp_path / "nowhere" / "buffer.db")


def _sealed(kind: SegmentKind, number: int) -> Sealed:
    key = SegmentKey(incarnation=INCARNATION, kind=kind, first=number * 10, last=number * 10 + 9)
    return Sealed(key, 10, f"{kind}{number}".encode() + bytes(8000))


def test_the_worker_and_the_forwarder_share_the_buffer(tmp_path: Path) -> None:
    """A second connection sees and deletes what the first sealed."""
    sealing, forwarding = spool.make(tmp_path), Buffer(tmp_path / "buffer.db")
    sealed = _sealed(SegmentKind.PREDICTIONS, 1)
    sealing.seal(INCARNATION, Position(), [sealed], [])
    assert [stored.body for stored in forwarding.waiting(10)] == [sealed.body]
    forwarding.acknowledge(sealed.key)
    assert sealing.facts().segments == 0
    sealing.close()
    forwarding.close()


def test_a_folder_where_the_buffer_was_is_put_aside(tmp_path: Path) -> None:
    """As often as it happens, and over whatever was put aside before."""
    path = tmp_path / "buffer.db"
    for _ in range(2):
        path.unlink(missing_ok=True)
        path.mkdir()
        assert buffer.ensure(path)
        Buffer(path).close()


def test_kinds_go_in_their_order_when_room_is_needed(tmp_path: Path) -> None:
    """First what is kept for late labels, then what is parked, single answers, windows, labels."""
    store = spool.make(tmp_path, bytes_max=512 * 1024)
    kinds = (SegmentKind.LABELS, SegmentKind.WINDOW, SegmentKind.PREDICTIONS, SegmentKind.SHADOW)
    for kind in kinds:
        store.seal(INCARNATION, Position(), [_sealed(kind, number) for number in range(1, 9)], [])
    store.park(_sealed(SegmentKind.WINDOW, 1).key, "wire.malformed: no")
    store.seal(INCARNATION, Position(), [], [], kept=[Kept(1, 9, 9, bytes(8000))])
    gone: list[str] = []
    for number in range(9, 60):
        store.seal(INCARNATION, Position(), [_sealed(SegmentKind.LABELS, number)], [])
        gone += [name for name in _DROPPED if store.count(name) and name not in gone]
    assert gone == list(_DROPPED)
    facts = store.facts()
    assert facts.windows_dropped == 8
    assert facts.segments_parked == 1
    windows = store.count("dropped_window_rows")
    rows = sum(store.count(f"dropped_{kind}_rows") for kind in SegmentKind)
    assert facts.rows_dropped == rows - windows
    store.close()


_DROPPED = (
    "answers_forgotten",
    "dropped_window_segments",  # the parked one
    "dropped_shadow_segments",
    "dropped_predictions_segments",
    "dropped_labels_segments",
)


def test_windows_leave_first_the_newest_of_them(tmp_path: Path) -> None:
    """After an outage how things are now goes before every single old answer."""
    store = spool.make(tmp_path)
    kinds = (SegmentKind.PREDICTIONS, SegmentKind.WINDOW, SegmentKind.LABELS)
    sealed = [_sealed(kind, number) for number in (1, 2) for kind in kinds]
    store.seal(INCARNATION, Position(), sealed, [])
    names = [stored.body.rstrip(b"\0").decode() for stored in store.waiting(5)]
    assert names == ["window2", "window1", "labels1", "labels2", "predictions1"]
    store.close()


def test_an_old_buffer_is_brought_up_to_date(tmp_path: Path) -> None:
    """What an older agent left is kept, and what is new is there."""
    path = tmp_path / "buffer.db"
    store = spool.make(tmp_path)
    store.seal(INCARNATION, Position(), [_sealed(SegmentKind.LABELS, 1)], [])
    store.close()
    old = sqlite3.connect(path)
    old.executescript(
        "DROP TABLE answer; DROP INDEX idx_segment_waiting; DROP INDEX idx_segment_parked;"
        "PRAGMA user_version = 1"
    )
    old.close()
    assert not buffer.is_ready(path)
    assert buffer.is_ready(path, buffer.FORWARDED_VERSION)
    forwarding = Buffer(path)
    assert len(forwarding.waiting(9)) == 1
    forwarding.close()
    assert not buffer.ensure(path)
    again = Buffer(path)
    assert len(again.waiting(9)) == 1
    again.seal(INCARNATION, Position(), [], [], kept=[Kept(1, 5, 5, b"body")])
    assert again.find(INCARNATION, 3) == [b"body"]
    again.close()


@pytest.mark.needs("mount")
def test_a_full_disk_is_freed_by_the_ballast(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With no byte left the oldest go, the newest stay, and the ballast is laid again after."""
    with small_disk.mounted(6 * 2**20) as disk:
        store = spool.make(disk, bytes_max=64 * 2**20)
        for number in range(1, 200):
            store.seal(INCARNATION, Position(), [_sealed(SegmentKind.PREDICTIONS, number)], [])
        assert ballast.path_of(disk / "buffer.db").exists()
        filler = small_disk.fill(disk, leave=0)
        for number in range(200, 600):
            sealed = _sealed(SegmentKind.PREDICTIONS, number)
            store.seal(INCARNATION, Position(1, number), [sealed], [])
        kept = {stored.body for stored in store.waiting(1000)}
        assert _sealed(SegmentKind.PREDICTIONS, 599).body in kept
        assert store.facts().rows_dropped == 10 * (599 - len(kept))
        assert store.cursor(INCARNATION) == Position(1, 599)
        filler.unlink()
        assert ballast.lay(disk / "buffer.db")
        store.close()


def test_the_buffer_tells_what_lies_in_it(tmp_path: Path) -> None:
    """By kind what waits, is parked and was dropped; the quota, the ballast, the oldest row."""
    store = spool.make(tmp_path)
    real = segments.predictions([1, 2, 3], [0, 1, 0])
    store.seal(INCARNATION, Position(), [Sealed(real.key, 3, codec.encode(real))], [])
    store.seal(INCARNATION, Position(), [_sealed(SegmentKind.WINDOW, 1)], [])
    store.park(_sealed(SegmentKind.WINDOW, 1).key, "wire.malformed: no")
    store.set_quota(2**20)
    facts = buffer_facts.read(tmp_path / "buffer.db")
    kinds = {each.kind: each for each in facts.kinds}
    assert (kinds["predictions"].segments, kinds["predictions"].rows) == (1, 3)
    assert (kinds["window"].parked, facts.faults) == (1, ("wire.malformed: no",))
    assert (facts.oldest, facts.quota_bytes, facts.has_ballast) == (1.0, 2**20, True)
    words = "\n".join(buffer_text.lines(facts))
    assert "1970-01-01 00:00:01Z" in words
    assert "wire.malformed: no" in words
    store.close()
    with pytest.raises(StateDamaged, match="no buffer"):
        buffer_facts.read(tmp_path / "nothing.db")
