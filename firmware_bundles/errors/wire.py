"""Refusals of a peer's bytes."""

from __future__ import annotations

from firmware_bundles.errors.root import ShoalError


class WireError(ShoalError):
    """The other side sent something that cannot be taken.

    Check that both sides are of about the same release.
    """

    code = "wire.refused"


class Malformed(WireError):
    """The bytes cannot be read as what they should be."""

    code = "wire.malformed"


class MessageTooLarge(WireError):
    """A message or body is larger than allowed."""

    code = "wire.too_large"


class UnknownMessage(WireError):
    """A message came on a topic that nobody may use."""

    code = "wire.unknown_message"


class VersionUnsupported(WireError):
    """A message has a schema that this side does not read."""

    code = "wire.version_unsupported"
    default_hint = "Agent and control plane may be one release apart; update the older one."


class SegmentOverlapping(WireError):
    """A segment holds rows that were delivered before under another key."""

    code = "wire.segment_overlapping"
    default_hint = "Two runs of one agent use the same state directory."
