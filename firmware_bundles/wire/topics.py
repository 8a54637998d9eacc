"""The only place where a topic string exists.

Ids are read at a fixed depth: a name with a slash in it must not move what follows (MQTT 5, section
4.7).
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from firmware_bundles.errors import UnknownMessage
from firmware_bundles.identifiers import DeviceId, Digest, parse

_ROOT = "shoal/v1"
_UP_LEVELS = 6
_FILE_NAME_CHARS_MAX = 128
_BRANCH_LEVEL = 2


class Up(StrEnum):
    """What a device says."""

    PRESENCE = "presence"
    HELLO = "hello"
    REPORT = "report"
    TELEMETRY = "telemetry"
    REQUEST = "request"


class Down(StrEnum):
    """What is said to one device."""

    ASSIGNMENT = "assignment"
    ACKNOWLEDGEMENT = "ack"
    CHUNK = "chunk"


class Branch(StrEnum):
    """What is said to all devices."""

    REPOSITORY = "repo"
    CHUNK = "chunk"


class UpTopic(NamedTuple):
    """A parsed topic of a device's own branch."""

    device: str
    kind: Up


REPOSITORY_HINT = f"{_ROOT}/repo/latest"
ALL_UP = f"{_ROOT}/d/+/up/#"
ALL = f"{_ROOT}/#"


def up(device: str, kind: Up) -> str:
    """Return the topic on which `device` says `kind`."""
    return f"{_ROOT}/d/{device}/up/{kind.value}"


def down(device: str, kind: Down) -> str:
    """Return the topic on which `device` is told `kind`."""
    return f"{_ROOT}/d/{device}/down/{kind.value}"


def all_down(device: str) -> str:
    """Return the filter for all that is said to `device`."""
    return f"{_ROOT}/d/{device}/down/#"


def chunk(digest: str) -> str:
    """Return the topic that retains the chunk with this digest."""
    return f"{_ROOT}/chunk/{digest}"


def repository_file(name: str) -> str:
    """Return the topic that retains a file of the models repository; its name becomes one level."""
    try:
        quoted = quote(name, safe="").replace("+", "%2B")
    except UnicodeEncodeError:
        quoted = ""
    if not quoted or len(name) > _FILE_NAME_CHARS_MAX or "\0" in name:
        raise UnknownMessage(f"repository file name {name!r:.80} cannot be a topic level")
    return f"{_ROOT}/repo/metadata/{quoted}"


def parse_up(topic: str) -> UpTopic:
    """Read a topic of a device's up branch. Raises UnknownMessage or Malformed."""
    levels = topic.split("/")
    if len(levels) != _UP_LEVELS or levels[:3] != ["shoal", "v1", "d"] or levels[4] != "up":
        raise UnknownMessage(f"topic {topic!r:.120} is not one that a device writes")
    if levels[5] not in {kind.value for kind in Up}:
        raise UnknownMessage(f"topic {topic!r:.120} ends in no known kind of message")
    return UpTopic(parse(DeviceId, levels[3], "device id of a topic"), Up(levels[5]))


def parse_chunk(topic: str) -> str | None:
    """Return the digest that a chunk's topic names, or None if it is no chunk's topic."""
    prefix = f"{_ROOT}/chunk/"
    if not topic.startswith(prefix):
        return None
    return parse(Digest, topic.removeprefix(prefix), "digest of a chunk topic")


def parse_repository_file(topic: str) -> str | None:
    """Return the name of the repository file that a topic retains, or None if it retains none."""
    prefix = f"{_ROOT}/repo/metadata/"
    return unquote(topic.removeprefix(prefix)) if topic.startswith(prefix) else None


def parse_down(topic: str, device: str) -> Down | None:
    """Return what `topic` tells `device`, or None if it is not in this device's down branch."""
    prefix = f"{_ROOT}/d/{device}/down/"
    kind = topic.removeprefix(prefix)
    known = {member.value for member in Down}
    return Down(kind) if topic.startswith(prefix) and kind in known else None


def branch(topic: str) -> Branch | Up | Down | None:
    """Return which kind of message a topic carries, whoever's; None if nobody knows. Total."""
    levels = topic.split("/")
    if "/".join(levels[:2]) != _ROOT or len(levels) <= _BRANCH_LEVEL:
        return None
    for members in (Branch, Up, Down):
        name = levels[_BRANCH_LEVEL] if members is Branch else levels[-1]
        if name in {member.value for member in members}:
            return members(name)
    return None
