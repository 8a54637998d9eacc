"""Rollout files, YAML or JSON, to a `RolloutSpec`. A refusal is one line: where, which field, what.

JSON is read by the YAML reader too, because that one knows line numbers. Only plain data is read:
no tags, no anchors (a small file could otherwise grow without bound), no key twice.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import yaml
from msgspec import inspect

from control_plane.rollouts.spec import SCHEMA, RolloutSpec
from control_plane.rollouts.spec_rules import problems
from firmware_bundles.errors import RolloutInvalid

ROLLOUT_BYTES_MAX: Final = 64 * 1024
FormT = TypeVar("FormT", bound=msgspec.Struct)
_DEPTH_MAX: Final = 16
_MESSAGE_CHARS_MAX: Final = 300

_PREFIX: Final = "tag:yaml.org,2002:"
_DATA_TAGS: Final = frozenset(f"{_PREFIX}{name}" for name in ("null", "bool", "int", "float"))
_TEXT_TAGS: Final = frozenset(f"{_PREFIX}{name}" for name in ("str", "timestamp", "value", "merge"))
_COLLECTION_TAGS: Final = frozenset(f"{_PREFIX}{name}" for name in ("map", "seq"))


def parse(text: str | bytes) -> RolloutSpec:
    """Return the rollout that `text` describes. Raises RolloutInvalid."""
    document = _Document(_decoded(text))
    spec = _converted(document, RolloutSpec)
    _check_schema(spec, document)
    for found in problems(spec):
        raise _refused(document.line(found.place), found.place, found.what, hint=found.hint)
    return spec


def parse_form(text: str | bytes, form: type[FormT]) -> FormT:
    """Return another small file of the same syntax, as `form` has it. Raises RolloutInvalid."""
    return _converted(_Document(_decoded(text)), form)


def _converted(document: _Document, form: type[FormT]) -> FormT:
    try:
        return msgspec.convert(document.value, form)
    except msgspec.ValidationError as error:
        _explain(str(error), document, form)


def _decoded(text: str | bytes) -> str:
    if len(text) > ROLLOUT_BYTES_MAX:
        raise RolloutInvalid(f"the file has more than {ROLLOUT_BYTES_MAX} bytes")
    try:
        source = text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise RolloutInvalid("the file is not UTF-8 text") from error
    # JSON may be indented with tabs, YAML may not; inside JSON strings there are none.
    return source.replace("\t", " ") if source.lstrip().startswith("{") else source


class _Loader(yaml.SafeLoader):
    """Composes nodes no deeper than any rollout needs, and no aliases."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line = self.peek_event().start_mark.line  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise _refused(line, "", "anchors and aliases are not read here")
        if self.depth == _DEPTH_MAX:
            raise _refused(line, "", "this is nested too deeply")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Document:
    """A parsed text: its plain `value`, and the line of every place in it."""

    def __init__(self, source: str) -> None:
        self._lines: dict[str, int] = {"": 0}
        try:
            self._loader = _Loader(source)
            node = self._loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise _refused(
                mark.line if mark is not None else 0, "", error.problem or "this cannot be read"
            ) from error
        except yaml.YAMLError as error:
            raise _refused(0, "", "this is not text") from error
        if node is None:
            hint = "A rollout names family, release, cohort and phases."
            raise _refused(0, "", "this is empty", hint=hint)
        self.value: Any = self._plain(node, "")

    def line(self, place: str) -> int:
        """Return the line, from 0, of a place like `phases[1].share`, or of what would hold it."""
        while place not in self._lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self._lines[place]

    def at(self, place: str) -> object:
        """Return the value at a place."""
        found = self.value
        for key in re.findall(r"[^.\[\]]+", place):
            found = found[int(key) if isinstance(found, list) else key]
        return found

    def _plain(self, node: yaml.Node, place: str) -> object:
        if node.tag not in _DATA_TAGS | _TEXT_TAGS | _COLLECTION_TAGS:
            what = f"the tag {node.tag!r:.60} is not read here"
            raise _refused(node.start_mark.line, place, what)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._child(each, f"{place}[{index}]") for index, each in enumerate(node.value)]
        return self._scalar(node, place)

    def _child(self, node: yaml.Node, place: str) -> object:
        self._lines[place] = node.start_mark.line
        return self._plain(node, place)

    def _mapping(self, node: yaml.MappingNode, place: str) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(line, place, "a key has to be a word")
            word = self._text(key, place)
            if word in result:
                raise _refused(line, place, f"{word!r:.60} is given twice")
            name = f"{place}.{word}" if place else word
            result[word] = self._plain(value, name)
            self._lines[name] = line
        return result

    def _text(self, node: yaml.Node, place: str) -> str:
        text: str = node.value
        try:
            text.encode()
        except UnicodeEncodeError as error:  # half of a pair that "\\ud800" and its like stand for
            raise _refused(node.start_mark.line, place, "there is half a character") from error
        return text

    def _scalar(self, node: yaml.Node, place: str) -> object:
        if node.tag in _TEXT_TAGS:
            return self._text(node, place)
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError) as error:
            raise _refused(
                node.start_mark.line, place, f"{node.value!r:.60} cannot be read"
            ) from error


def _explain(message: str, document: _Document, form: type) -> NoReturn:
    """Raise msgspec's refusal as a RolloutInvalid: its place becomes a line, its words ours."""
    what, _, path = message.partition(" - at `$")
    place = path.rstrip("`").lstrip(".")
    if found := re.search(r"unknown field `(.*)`", what):
        _refuse_unknown(found[1], place, document, form)
    if found := re.search(r"required field `(.*)`", what):
        raise _refused(document.line(place), place, f"{found[1]} is missing")
    hint = ""
    if "matching regex" in what:
        what = f"{document.at(place)!r:.60} is not a valid name"
        hint = "Names have letters, digits and '-', at most 63."
    elif what.startswith("Expected `str"):
        hint = "Write it in quotes."
    what = what.replace("`", "").replace(" | null", "").replace("array", "list")
    raise _refused(document.line(place), place, what[:1].lower() + what[1:], hint=hint)


def _refuse_unknown(field: str, place: str, document: _Document, form: type) -> NoReturn:
    full = f"{place}.{field}" if place else field
    fields = _fields(place, form)
    near = difflib.get_close_matches(field, fields, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known here: {', '.join(fields)}."
    raise _refused(document.line(full), full, "there is no such field", hint=hint)


def _fields(place: str, whole: type) -> tuple[str, ...]:
    """Return which fields the object at a place may have."""
    found = inspect.type_info(whole)
    for key in re.findall(r"[^.\[\]]+", place):
        form = next(_structs(found))
        if not key.isdecimal():
            found = next(field.type for field in form.fields if field.name == key)
    return tuple(field.encode_name for field in next(_structs(found)).fields)


def _structs(found: inspect.Type) -> Iterator[inspect.StructType]:
    """Yield the objects that a type is, may be, or is a list of."""
    if isinstance(found, inspect.StructType):
        yield found
    elif isinstance(found, inspect.UnionType):
        for each in found.types:
            yield from _structs(each)
    elif isinstance(found, inspect.VarTupleType | inspect.Metadata):
        yield from _structs(found.item_type if hasattr(found, "item_type") else found.type)


def _check_schema(spec: RolloutSpec, document: _Document) -> None:
    if str(spec.schema).split(".")[0] != SCHEMA.split(".")[0]:
        what = f"this control plane reads {SCHEMA}, not {spec.schema!r:.40}"
        raise _refused(document.line("schema"), "schema", what)


def _refused(line: int, place: str, what: str, *, hint: str = "") -> RolloutInvalid:
    where = f"line {line + 1}: {place}: " if place else f"line {line + 1}: "
    text = " ".join(f"{where}{what}".split())
    shown = "".join(each if each.isprintable() else "?" for each in text[:_MESSAGE_CHARS_MAX])
    return RolloutInvalid(shown, hint=hint)
