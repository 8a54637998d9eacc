"""The buffer keeps to its quota, counts what it drops, and finds what it holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.store import buffer
from agent.store.buffer import Buffer, Sealed
from agent.store.journal import Position
from firmware_bundles.errors import StateDamaged
from firmware_bundles.wire.messages import SegmentKey, SegmentKind
from support import spool

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
    with pytest.raises(Exception, match="UNIQUE"):
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
