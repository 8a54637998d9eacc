"""What is handled together: each kind at once, and no device's words out of order."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from control_plane.broker.inbox import Inbox
from control_plane.broker.rounds import ORDER, Said, rounds
from firmware_bundles.errors import Malformed, ShoalError
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Up

_WORDS = st.lists(
    st.builds(Said, st.sampled_from(["a", "b", "c"]), st.sampled_from(ORDER), st.binary(max_size=1))
)


@given(_WORDS)
def test_what_a_device_says_keeps_its_order(words: list[Said]) -> None:
    """Nothing is lost or doubled, and each device is heard as it spoke."""
    heard = [each for found in rounds(words) for said in found.values() for each in said]
    for device in "abc":
        own = [each for each in words if each.device == device]
        assert [each for each in heard if each.device == device] == own
    assert len(heard) == len(words)


def test_a_storm_of_connects_is_one_round() -> None:
    """However the words of many devices mix, each kind is handled once."""
    words = [Said(str(number), kind, b"") for number in range(50) for kind in ORDER]
    queues = {str(number): list(ORDER) for number in range(50)}
    rng, mixed = random.Random(1), []
    while left := [name for name, kinds in queues.items() if kinds]:
        name = rng.choice(left)
        mixed.append(Said(name, queues[name].pop(0), b""))
    (found,) = rounds(mixed)
    assert sorted(found) == sorted(ORDER)
    assert sum(len(said) for said in found.values()) == len(words)


def test_one_word_that_fails_all_together_fails_alone() -> None:
    """The others are handled, each by itself; what is refused is counted, with its device."""
    heard: list[str] = []
    suspects: list[str] = []

    def take(batch: list[tuple[str, bytes]]) -> list[ShoalError | None]:
        if any(payload == b"poison" for _, payload in batch):
            raise ZeroDivisionError
        heard.extend(device for device, _ in batch)
        return [Malformed("no") if payload == b"bad" else None for _, payload in batch]

    inbox = Inbox(
        {},
        lambda _batch: None,
        lambda device, _: suspects.append(device),
        together={Up.REPORT: take},  # type: ignore[dict-item]
    )
    said = {"a": b"good", "b": b"poison", "c": b"bad", "d": b"good"}
    inbox.handle([(topics.up(name, Up.REPORT), payload) for name, payload in said.items()])
    assert heard == ["a", "c", "d"]
    assert suspects == ["c"]
    assert inbox.refused == {Malformed.code: 1, ShoalError.code: 1}
