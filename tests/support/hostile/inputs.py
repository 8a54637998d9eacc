"""Bad inputs: the classes as data, and strategies that damage what is good.

Bytes are cut, padded, flipped and spliced. Documents (JSON, MessagePack) are damaged in one place
of their structure and stay readable otherwise, so that the checks deep inside are reached.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any, Final

import msgspec
from hypothesis import strategies as st


class Form(Enum):
    """What a parser's bytes are made of."""

    BYTES = "bytes"
    JSON = "JSON"
    MSGPACK = "MessagePack"


_DEPTH: Final = 100_000
_BOMB_BYTES: Final = 64 * 1024 * 1024

TEXTS: Final = (
    "", "..", "../../etc/passwd", "/", "a/b", "CON", "name ", " ", "n" * 300, "+", "#", "$SYS",
    "\0", "a\0b", "a\nb", "\u202eabc", "\u200f", "caf\u00e9", "cafe\u0301", "\ufeff", "\uffff",
    "\U0001f41f", "0" * 64, "A" * 64, "1.0", "2.0", "1.", "1.99999999999999999999", "\u0661.0",
    "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "md5", "dev-1", "digits/1/manifest.json",
)  # fmt: skip
NUMBERS: Final = (
    0, -1, 1, -0.0, 0.5, 255, 256, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63),
    1e308, -1e308, 5e-324,
)  # fmt: skip
_TOKENS: Final = (
    b"", b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xef\xbb\xbf",
    b"NaN", b"Infinity", b"-0", b"1e309", b"9" * 400, b"18446744073709551616", b"true", b"null",
    b"[", b"{", b"]", b"}", b'"', b"\\ud800", b",", b":", b"\n", b"\r\n", b"\t", b"- ", b"&a ",
    b"*a", b"!!python/name:os.system ", b"../", b"/", b"+", b"#", b"=", b"(", b")", b"!",
    b"\0" * 64, b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80",
    *(text.encode("utf-8", "surrogatepass") for text in TEXTS),
)  # fmt: skip
_RAW: Final[dict[Form, tuple[bytes, ...]]] = {
    Form.BYTES: (),
    Form.JSON: (
        b"NaN", b"-Infinity", b"Infinity", b"-0", b"1e309", b"-1e309", b"1e-999",
        b"9" * 400, b"18446744073709551616", b"-9223372036854775809", b'"\\ud800"', b'"\\u0000"',
        b'"\xff"', b'"\xc3\x28"', b"[" * _DEPTH, b"[" * 5000 + b"]" * 5000, b'{"a":' * _DEPTH,
        b'{"a":1,"a":2}', b"01", b"+1", b"1.", b"'a'", b"[1,]", b"",
    ),
    Form.MSGPACK: (
        b"\xcb\x7f\xf8" + b"\0" * 6, b"\xcb\x7f\xf0" + b"\0" * 6, b"\xcb\xff\xf0" + b"\0" * 6,
        b"\xa1\xff", b"\xa2\xc3\x28", b"\xa3\xed\xa0\x80", b"\xc1", b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
        b"\xd6\xff\xff\xff\xff\xff", b"\xc7\x0c\xff" + b"\xff" * 12, b"\xc4\x00",
        b"\x91" * _DEPTH, b"\x81\xa1a" * _DEPTH, b"\x82\xa1a\x01\xa1a\x02", b"",
    ),
}  # fmt: skip


@cache
def classes() -> tuple[bytes, ...]:
    """Return whole inputs that every parser gets, whatever it reads."""
    bomb = zlib.compress(b"\0" * _BOMB_BYTES, 9)
    ones = zlib.compress(b"\x01" * _BOMB_BYTES, 9)
    return (
        *_TOKENS, *_RAW[Form.JSON], *_RAW[Form.MSGPACK],
        b"{}", b"[]", b"null", b"true", b"0", b'""', b"\x80", b"\x90", b"\xc0", b"\xc3",
        b"{" * 5000, b'{"schema":' * 2000, b"(" * 5000, b"x" * 70_000, b"\0" * 70_000,
        bomb, bytes([1]) + bomb, bytes([1]) + ones, bytes([1]) + b"\0" * 8 + bomb,
        b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        b"\x30\x84\xff\xff\xff\xff", b"\x30\x80" * 5000, b"PK\x05\x06" + b"\0" * 18,
        b"\0\0\0\0TFL3", b"\x08\0\0\0TFL3", b"\xff\xff\xff\xffTFL3" + b"\xff" * 64,
    )  # fmt: skip


def near(seeds: Sequence[bytes], form: Form) -> st.SearchStrategy[bytes]:
    """Return a strategy of inputs that begin as one of `seeds` and are damaged."""
    damaged = _damaged_bytes(tuple(seeds))
    if form is Form.BYTES:
        return damaged
    documents = tuple(_decode(seed, form) for seed in seeds)
    return st.one_of(
        _damaged_documents(documents, form), _damaged_documents(documents, form), damaged
    )


_PLACES: Final = st.integers(0, 2**24) | st.integers(0, 64)
_EDITS: Final = st.lists(
    st.tuples(
        st.sampled_from(("cut", "pad", "flip", "set", "insert", "remove", "splice", "repeat")),
        _PLACES,
        st.sampled_from(_TOKENS) | st.binary(max_size=8),
    ),
    min_size=1,
    max_size=3,
)


def _damaged_bytes(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    def damage(seed: bytes, other: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
        for verb, number, token in edits:
            seed = _edited(seed, other, verb, number, token)
        return seed

    anything = st.binary(max_size=256)
    some = st.builds(damage, st.sampled_from(seeds), st.sampled_from(seeds), _EDITS)
    return st.one_of(some, some, some, anything)


def _edited(data: bytes, other: bytes, verb: str, number: int, token: bytes) -> bytes:
    at = number % (len(data) + 1)
    match verb:
        case "cut":
            return data[:at]
        case "pad":
            return data + (token or b"\0")
        case "flip":
            changed = bytearray(data)
            if data:
                changed[at - 1] ^= 1 << (number % 8)
            return bytes(changed)
        case "set":
            return data[:at] + token + data[at + len(token) :]
        case "insert":
            return data[:at] + token + data[at:]
        case "remove":
            return data[:at] + data[at + 1 + len(token) :]
        case "splice":
            return data[:at] + other[number % (len(other) + 1) :]
        case _:
            return data[:at] + data[max(0, at - 16) :]


_LEAVES: Final = (
    st.sampled_from(TEXTS)
    | st.sampled_from(NUMBERS)
    | st.sampled_from((None, True, False))
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=12)
)
_VALUES: Final = (
    _LEAVES
    | _LEAVES
    | st.lists(_LEAVES, max_size=3)
    | st.dictionaries(st.sampled_from(TEXTS), _LEAVES, max_size=2)
    | st.lists(st.just(0), min_size=100, max_size=100)
)

Path = tuple[int | str, ...]


def _damaged_documents(documents: tuple[Any, ...], form: Form) -> st.SearchStrategy[bytes]:
    places = [tuple(_places(document)) for document in documents]
    raw = st.sampled_from(_RAW[form]).map(msgspec.Raw)
    values = (
        st.one_of(_VALUES, raw, st.binary(max_size=12))
        if form is Form.MSGPACK
        else (st.one_of(_VALUES, raw))
    )
    edit = st.tuples(
        _PLACES, st.sampled_from(("replace", "replace", "remove", "add", "twice", "graft")), values
    )

    def damage(which: int, edits: list[tuple[int, str, Any]]) -> bytes:
        document, paths = documents[which], places[which]
        for number, verb, value in edits:
            graft = _at(documents[which], paths[(number * 7 + 3) % len(paths)])
            new = graft if verb == "graft" else value
            document = _changed(document, paths[number % len(paths)], verb, new, form)
        return _encode(document, form)

    return st.builds(
        damage, st.integers(0, len(documents) - 1), st.lists(edit, min_size=1, max_size=3)
    )


def _places(document: Any, path: Path = ()) -> Iterator[Path]:  # noqa: ANN401 - any document
    yield path
    if isinstance(document, dict):
        for key, value in document.items():
            yield from _places(value, (*path, key))
    elif isinstance(document, list):
        for index, value in enumerate(document[:8]):
            yield from _places(value, (*path, index))


def _at(document: Any, path: Path) -> Any:  # noqa: ANN401 - as above
    for step in path:
        document = document[step]
    return document


def _changed(document: Any, path: Path, verb: str, value: Any, form: Form) -> Any:  # noqa: ANN401
    """Return the document with one place changed; a place that is gone by now changes nothing."""
    if not path:
        return value if verb in {"replace", "graft"} else _grown(document, verb, value, form)
    step, *rest = path
    if isinstance(document, dict) and step in document:
        if verb == "remove" and not rest:
            return {key: each for key, each in document.items() if key != step}
        return {**document, step: _changed(document[step], tuple(rest), verb, value, form)}
    if isinstance(document, list) and isinstance(step, int) and step < len(document):
        changed = list(document)
        if verb == "remove" and not rest:
            del changed[step]
        else:
            changed[step] = _changed(document[step], tuple(rest), verb, value, form)
        return changed
    return document


def _grown(document: Any, verb: str, value: Any, form: Form) -> Any:  # noqa: ANN401 - as above
    if isinstance(document, dict) and verb == "twice" and document:
        return _with_first_key_twice(document, value, form)
    if isinstance(document, dict):
        return {**document, "surprise": value}
    if isinstance(document, list):
        return [*document, *document, value]
    return value


def _with_first_key_twice(document: dict[Any, Any], value: Any, form: Form) -> msgspec.Raw:  # noqa: ANN401
    first = next(iter(document))
    if form is Form.JSON:
        whole, again = _encode(document, form), _encode({first: value}, form)
        return msgspec.Raw(whole[:-1] + b"," + again[1:])
    pairs = [*document.items(), (first, value)]
    body = b"".join(_encode(each, form) for pair in pairs for each in pair)
    return msgspec.Raw(b"\xdf" + len(pairs).to_bytes(4, "big") + body)


def _decode(data: bytes, form: Form) -> Any:  # noqa: ANN401 - as above
    return msgspec.json.decode(data) if form is Form.JSON else msgspec.msgpack.decode(data)


def _encode(document: Any, form: Form) -> bytes:  # noqa: ANN401 - as above
    if form is Form.JSON:
        return msgspec.json.encode(document)
    return msgspec.msgpack.encode(document)
