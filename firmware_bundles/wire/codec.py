"""Bytes to messages and back: first the size is checked, then the version, then all, once.

JSON for what people read in a trace, MessagePack for telemetry. Authentication of telemetry and
acknowledgements by HMAC-SHA256 (RFC 2104) over topic and body stands here too, because it frames
the bytes; signatures do not.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, NamedTuple, TypeVar

import msgspec

from firmware_bundles import limits
from firmware_bundles.errors import (
    AuthenticationFailed,
    Malformed,
    MessageTooLarge,
    VersionUnsupported,
)
from firmware_bundles.wire import messages

MessageT = TypeVar("MessageT", bound=messages.Message)

_MAJOR: Final = int(messages.SCHEMA.split(".")[0])
_TAG_BYTES: Final = 32


class _Rule(NamedTuple):
    bytes_max: int
    is_binary: bool


_RULES: Final[dict[type[messages.Message], _Rule]] = {
    messages.Presence: _Rule(limits.PRESENCE_BYTES_MAX, is_binary=False),
    messages.Hello: _Rule(limits.HELLO_BYTES_MAX, is_binary=False),
    messages.RepositoryHint: _Rule(limits.HINT_BYTES_MAX, is_binary=False),
    messages.FileIndex: _Rule(limits.INDEX_BYTES_MAX, is_binary=False),
    messages.Assignment: _Rule(limits.ASSIGNMENT_BYTES_MAX, is_binary=False),
    messages.Report: _Rule(limits.REPORT_BYTES_MAX, is_binary=False),
    messages.ChunkRequest: _Rule(limits.REQUEST_BYTES_MAX, is_binary=False),
    messages.Segment: _Rule(limits.TELEMETRY_BYTES_MAX, is_binary=True),
    messages.Acknowledgement: _Rule(limits.ACKNOWLEDGEMENT_BYTES_MAX, is_binary=True),
}


def encode(message: messages.Message) -> bytes:
    """Return the bytes of a message.

    Raises MessageTooLarge rather than saying what no peer accepts.
    """
    rule = _RULES[type(message)]
    data = msgspec.msgpack.encode(message) if rule.is_binary else msgspec.json.encode(message)
    _check_size(type(message), data, rule)
    return data


def decode(kind: type[MessageT], data: bytes) -> MessageT:
    """Parse bytes from outside. Raises MessageTooLarge, VersionUnsupported or Malformed."""
    rule = _RULES[kind]
    _check_size(kind, data, rule)
    codec = msgspec.msgpack if rule.is_binary else msgspec.json
    try:
        try:
            message: MessageT = codec.decode(data, type=kind)
        except msgspec.ValidationError:
            # Another version may have other fields: then that is what is wrong with it.
            _check_version(kind, codec.decode(data, type=messages.Message).schema)
            raise
        _check_version(kind, message.schema)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"{kind.__name__} message cannot be read: {error}") from error
    return message


def seal(key: bytes, topic: str, message: messages.Message) -> bytes:
    """Return tag and body of a message that only a holder of `key` can have written to `topic`."""
    body = encode(message)
    return _tag(key, topic, body) + body


def unseal(kind: type[MessageT], key: bytes, topic: str, data: bytes) -> MessageT:
    """Check the tag, then parse. Raises AuthenticationFailed and what `decode` raises."""
    if len(data) > _RULES[kind].bytes_max + _TAG_BYTES:
        raise MessageTooLarge(f"{kind.__name__} message of {len(data)} bytes is too large")
    tag, body = data[:_TAG_BYTES], data[_TAG_BYTES:]
    if not hmac.compare_digest(tag, _tag(key, topic, body)):
        raise AuthenticationFailed(f"{kind.__name__} message on {topic} carries a wrong tag")
    return decode(kind, body)


def _tag(key: bytes, topic: str, body: bytes) -> bytes:
    return hmac.new(key, topic.encode() + b"\0" + body, hashlib.sha256).digest()


def _check_size(kind: type[messages.Message], data: bytes, rule: _Rule) -> None:
    if len(data) > rule.bytes_max:
        raise MessageTooLarge(
            f"{kind.__name__} message has {len(data)} bytes; at most {rule.bytes_max} are allowed"
        )


def _check_version(kind: type[messages.Message], schema: str) -> None:
    major, dot, minor = schema.partition(".")
    if not (dot and major.isascii() and major.isdigit() and minor.isascii() and minor.isdigit()):
        raise Malformed(f"{kind.__name__} message has the schema version {schema!r:.40}")
    if len(major) > len(str(_MAJOR)) + 8 or int(major) != _MAJOR:
        raise VersionUnsupported(
            f"{kind.__name__} message has schema {schema:.20}; this side reads {_MAJOR}.x"
        )
