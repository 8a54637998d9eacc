"""Presence: births always count, last wills only of the connection that is known."""

from __future__ import annotations

from control_plane.fleet.presence import after
from control_plane.store.devices import PresenceRow
from firmware_bundles.wire.messages import Presence

OLD, NEW = "0" * 32, "1" * 32


def test_a_birth_makes_a_device_present() -> None:
    """A device that says it is online is, by the connection that it names."""
    found = after(
        PresenceRow(is_online=False, connection=OLD), Presence(online=True, connection=NEW)
    )
    assert found == PresenceRow(is_online=True, connection=NEW)


def test_the_will_of_the_same_connection_counts() -> None:
    """The end of the connection that is known makes the device absent."""
    found = after(
        PresenceRow(is_online=True, connection=NEW), Presence(online=False, connection=NEW)
    )
    assert found == PresenceRow(is_online=False, connection=NEW)


def test_the_will_of_an_old_connection_does_not() -> None:
    """A last will that arrives after the device came back changes nothing."""
    known = PresenceRow(is_online=True, connection=NEW)
    assert after(known, Presence(online=False, connection=OLD)) is None


def test_what_is_known_is_not_stored_again() -> None:
    """A presence that says nothing new changes nothing."""
    known = PresenceRow(is_online=True, connection=NEW)
    assert after(known, Presence(online=True, connection=NEW)) is None
