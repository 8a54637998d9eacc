"""The chain of the audit log: what is found of what was done to it."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane import audit
from control_plane.audit import GENESIS, Break, Entry, Head, Statement
from firmware_bundles.errors import InputError, Malformed


def _log(count: int, first: str = "anna") -> list[Entry]:
    head, entries = GENESIS, []
    for number in range(1, count + 1):
        actor = f"token:{first if number == 1 else 'ben'}:shoal_0"
        statement = Statement(1000.5 + number, actor, "cohort.made", f"cohort/c{number}", {"n": 1})
        entries.append(audit.follow(head, statement))
        head = entries[-1].head
    return entries


def _found(entries: list[Entry], *noted: Head) -> set[tuple[int, Break]]:
    return {(fault.number, fault.kind) for fault in audit.verify(entries, noted).faults}


def test_a_log_that_nobody_touched_is_whole() -> None:
    """Nothing is found, and the head is that of the last entry; an empty log is whole too."""
    entries = _log(5)
    found = audit.verify(entries, [entries[2].head, entries[4].head])
    assert (found.is_whole, found.entries, found.head) == (True, 5, entries[4].head)
    assert audit.verify([]).head == GENESIS


@pytest.mark.parametrize("field", ["actor", "action", "subject", "details"])
def test_a_changed_field_is_found(field: str) -> None:
    """Whatever an entry says, another word in it is found, and only there."""
    entries = _log(5)
    entries[2] = msgspec.structs.replace(entries[2], **{field: "other"})
    assert _found(entries) == {(3, Break.CHANGED)}


def test_another_time_is_found() -> None:
    """The time of an entry counts to the millisecond."""
    entries = _log(3)
    entries[1] = msgspec.structs.replace(entries[1], at_ms=entries[1].at_ms + 1)
    assert _found(entries) == {(2, Break.CHANGED)}


def test_a_removed_entry_is_found() -> None:
    """The numbers that are missing are named."""
    entries = _log(6)
    assert _found(entries[:2] + entries[3:]) == {(3, Break.MISSING)}
    told = audit.verify(entries[:1] + entries[4:]).faults
    assert [fault.sentence for fault in told] == ["entries 2 to 4 are missing before entry 5"]
    assert _found(entries[1:]) == {(1, Break.MISSING)}


def test_an_inserted_entry_is_found() -> None:
    """One with a number that is taken stands where it does not belong."""
    entries = _log(4)
    foreign = audit.follow(entries[1].head, Statement(9.0, "service", "x.y", "z/1"))
    assert _found([*entries[:3], foreign, *entries[3:]]) == {(3, Break.MISPLACED)}
    assert (3, Break.MISPLACED) in _found([*entries[:2], foreign, *entries[2:]])


def test_moved_entries_are_found() -> None:
    """Two that changed places, and two that changed their contents but not their numbers."""
    entries = _log(5)
    moved = [entries[0], entries[2], entries[1], *entries[3:]]
    assert _found(moved) == {(2, Break.MISSING), (2, Break.MISPLACED)}
    swapped = list(entries)
    for mine, other in ((1, 2), (2, 1)):
        values = {"actor": entries[other].actor, "subject": entries[other].subject}
        swapped[mine] = msgspec.structs.replace(entries[mine], **values)
    assert _found(swapped) == {(2, Break.CHANGED), (3, Break.CHANGED)}


def test_an_entry_with_a_new_digest_does_not_fit_its_successor() -> None:
    """Who makes a changed entry's digest anew would have to make all that follow anew."""
    entries = _log(5)
    changed = msgspec.structs.replace(entries[2], actor="service")
    entries[2] = msgspec.structs.replace(changed, digest=audit.digest_of(changed))
    assert _found(entries) == {(3, Break.REPLACED)}


def test_a_rewritten_log_is_found_by_a_noted_head() -> None:
    """A whole chain of other entries is consistent in itself; a head from before tells."""
    true, false = _log(6), _log(6, first="eve")
    assert _found(false) == set()
    assert _found(false, true[3].head) == {(4, Break.REPLACED)}


def test_heads_of_one_entry_that_differ_are_both_asked() -> None:
    """Of two heads with the same number one at most is right, whichever was given last."""
    true, false = _log(3), _log(3, first="eve")
    for noted in ((true[2].head, false[2].head), (false[2].head, true[2].head)):
        assert _found(true, *noted) == {(3, Break.REPLACED)}


def test_a_log_that_was_cut_off_is_found_by_a_noted_head() -> None:
    """Without its end a log is consistent; a head that was noted elsewhere tells."""
    entries = _log(6)
    assert _found(entries[:4]) == set()
    assert _found(entries[:4], entries[5].head) == {(5, Break.CUT_OFF)}
    assert _found([], entries[0].head) == {(1, Break.CUT_OFF)}


@given(st.data())
def test_any_damage_is_found(data: st.DataObject) -> None:
    """Any sequence of entries that is no beginning of the log is found to be broken."""
    entries = _log(6)
    changed = data.draw(st.lists(st.sampled_from(entries), max_size=8))
    is_beginning = changed == entries[: len(changed)]
    assert audit.verify(changed).is_whole == is_beginning


def test_faults_are_counted_where_they_are_too_many_to_tell() -> None:
    """A log without a single right entry is told of in so many words."""
    entries = [msgspec.structs.replace(each, actor="x") for each in _log(150)]
    found = audit.verify(entries)
    assert (len(found.faults), found.more) == (audit.FAULTS_MAX, 50)


def test_the_digest_is_what_the_module_says() -> None:
    """Anybody can compute it: SHA-256 over netstrings of the fields in their order."""
    (entry,) = _log(1)
    parts = [
        "shoal-audit-1", "1", "0" * 64, "1001500", "token:anna:shoal_0", "cohort.made",
        "cohort/c1", '{"n":1}',
    ]  # fmt: skip
    joined = "".join(f"{len(part)}:{part}," for part in parts)
    assert entry.digest == hashlib.sha256(joined.encode()).hexdigest()


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_details_have_one_form(details: dict[str, object]) -> None:
    """The order in which details were given does not matter, and nothing of them is lost."""
    turned = dict(reversed(details.items()))
    assert audit.canonical(details) == audit.canonical(turned)
    assert json.loads(audit.canonical(details)) == details


def test_details_that_are_too_long_are_told_by_their_digest() -> None:
    """What happened is told in any case; that something is left out is told, too."""
    text = audit.canonical({"why": "x" * audit.DETAILS_BYTES_MAX})
    assert json.loads(text)["left_out_bytes"] > audit.DETAILS_BYTES_MAX


def test_texts_are_such_that_every_database_keeps_them() -> None:
    """A zero or half a character in a name changes no digest on its way through a database."""
    entry = audit.follow(GENESIS, Statement(0.0, "token:a\0b:\ud800", "x.y", "z" * 9999))
    assert entry.actor == "token:a\\0b:\\ud800"
    assert len(entry.subject) == audit.TEXT_CHARS_MAX


def test_an_exported_line_comes_back() -> None:
    """What is exported is read again as it was; another field, or half a line, is refused."""
    (entry,) = _log(1)
    line = audit.encode_line(entry)
    assert audit.parse_line(line) == entry
    for bad in (line[:-1], line.replace(b"{", b'{"more":1,', 1), b"[]", b"\xff"):
        with pytest.raises(Malformed):
            audit.parse_line(bad)


def test_a_head_is_read_as_it_is_printed() -> None:
    """What `shoal audit head` prints is what `--head` takes."""
    (entry,) = _log(1)
    assert audit.parse_head(f"{entry.head}\n") == entry.head
    for bad in ("", "1", "x:" + "0" * 64, "1:" + "0" * 63, "-1:" + "0" * 64):
        with pytest.raises(InputError):
            audit.parse_head(bad)
