"""Which subscriptions a device needs, as mosquitto's log tells of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.broker import acl, subscriptions
from control_plane.broker.subscriptions import Subscription
from firmware_bundles.wire import topics


@pytest.mark.parametrize(
    "wanted",
    [
        topics.all_down("dev-a"),
        "shoal/v1/d/dev-a/down/assignment",
        topics.REPOSITORY_HINT,
        topics.repository_file("1.root.json"),
        topics.repository_file("director/keys+more.json"),
        topics.chunk("a" * 64),
    ],
)
def test_what_a_device_needs_is_fine(wanted: str) -> None:
    """Its own branch, and files and chunks by name."""
    found = subscriptions.parse(f"1795233269: dev-a 1 {wanted}")
    assert found == Subscription("dev-a", wanted)
    assert subscriptions.is_needed(found)


@pytest.mark.parametrize(
    "wanted",
    [
        "#",
        "shoal/v1/#",
        "shoal/v1/chunk/+",
        "shoal/v1/chunk/#",
        "shoal/v1/repo/metadata/+",
        "shoal/v1/d/+/down/#",
        "shoal/v1/d/dev-b/down/#",
        "shoal/v1/d/dev-b/down/ack",
        "shoal/v1/d/dev-a/up/#",
        "$share/g/shoal/v1/d/dev-a/down/#",
        "$SYS/#",
        "a b/c",
    ],
)
def test_what_no_device_needs_is_noticed(wanted: str) -> None:
    """Wildcards over what is for all, other devices' branches, shared subscriptions."""
    found = subscriptions.parse(f"1795233269: dev-a 0 {wanted}")
    assert found == Subscription("dev-a", wanted)
    assert not subscriptions.is_needed(found)
    assert subscriptions.is_needed(found._replace(client=acl.SERVICE))


@given(st.text(max_size=200))
def test_any_line_is_read_or_left(line: str) -> None:
    """No line of a log is an error."""
    found = subscriptions.parse(line)
    assert found is None or isinstance(subscriptions.is_needed(found), bool)


@pytest.mark.parametrize(
    "line", ["", "1795233267: Warning: Mosquitto should not be run as root/administrator."]
)
def test_other_lines_are_no_subscriptions(line: str) -> None:
    """They stay in the log."""
    assert subscriptions.parse(line) is None
