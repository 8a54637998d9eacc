"""Topics are built and read in one place, at a fixed depth."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bundles.errors import ShoalError
from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Down, Up


def test_topics_keep_their_names() -> None:
    """Every topic is the same string as in the first release."""
    assert topics.up("dev-1", Up.HELLO) == "shoal/v1/d/dev-1/up/hello"
    assert topics.down("dev-1", Down.ACKNOWLEDGEMENT) == "shoal/v1/d/dev-1/down/ack"
    assert topics.all_down("dev-1") == "shoal/v1/d/dev-1/down/#"
    assert topics.chunk("a" * 64) == "shoal/v1/chunk/" + "a" * 64
    assert topics.repository_file("2.root.json") == "shoal/v1/repo/metadata/2.root.json"
    assert (
        topics.repository_file("director/keys.json")
        == "shoal/v1/repo/metadata/director%2Fkeys.json"
    )
    assert topics.REPOSITORY_HINT == "shoal/v1/repo/latest"


@pytest.mark.parametrize("kind", Up)
def test_an_up_topic_is_read_back(kind: Up) -> None:
    """What a device's topic says is read back from it."""
    assert topics.parse_up(topics.up("dev-1", kind)) == ("dev-1", kind)


@pytest.mark.parametrize(
    "topic",
    [
        "shoal/v1/d/dev-b/up/up/telemetry",
        "shoal/v1/d/dev-b/up/telemetry/x",
        "shoal/v1/d//up/hello",
        "shoal/v1/d/Dev/up/hello",
        "shoal/v1/d/svc.control/up/hello",
        "shoal/v1/d/dev/down/hello",
        "shoal/v1/d/dev/up/unknown",
        "shoal/v2/d/dev/up/hello",
        "",
    ],
)
def test_a_topic_of_another_shape_is_refused(topic: str) -> None:
    """A topic with another depth, id or kind is refused with an error of shoal."""
    with pytest.raises(ShoalError):
        topics.parse_up(topic)


@given(name=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60))
def test_a_repository_files_name_is_one_level(name: str) -> None:
    """Any file name becomes one topic level without wildcards, and is read back."""
    topic = topics.repository_file(name)
    assert topic.count("/") == topics.repository_file("x").count("/")
    assert not {"+", "#"} & set(topic)
    assert topics.parse_repository_file(topic) == name


@given(topic=st.text(max_size=120))
def test_any_text_is_a_known_topic_or_refused(topic: str) -> None:
    """Only errors of shoal come out of foreign topics."""
    for parse in (topics.parse_up, topics.parse_chunk, topics.parse_repository_file):
        with contextlib.suppress(ShoalError):
            parse(topic)
