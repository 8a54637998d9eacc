"""Label selectors in the syntax of Kubernetes: `a=b,c!=d,e in (x,y),f notin (z),g,!h,i>5`. Pure.

All requirements must hold. As there, `!=` and `notin` also hold for a device without the label;
the empty selector holds for every device. `>` and `<` compare whole numbers, and hold for no value
that is none. What devices report can be named like a label: see `facts`. Some conditions are made
by the control plane alone and have no syntax; they stand below the others here.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from control_plane.fleet import labels as label
from firmware_bundles.errors import SelectorInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SELECTOR_CHARS_MAX: Final = 1024
LISTED_MAX: Final = 10_000  # devices that a cohort names one by one
_TOKEN: Final = re.compile(r"[A-Za-z0-9._/-]+|==|!=|[=!(),<>]")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_SPACE: Final = re.compile(r"\s*")


class Operator(StrEnum):
    """How a requirement looks at a label."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    MISSING = "missing"
    ABOVE = ">"
    BELOW = "<"


class Requirement(NamedTuple):
    """One part of a selector."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` meet this requirement."""
        match self.operator:
            case Operator.IN:
                return labels.get(self.key) in self.values
            case Operator.NOT_IN:
                return labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.MISSING:
                return self.key not in labels
            case Operator.ABOVE | Operator.BELOW:
                return self._compares(labels.get(self.key, ""))

    def _compares(self, value: str) -> bool:
        if _NUMBER.fullmatch(value) is None:
            return False
        (bound,) = self.values
        is_above = self.operator is Operator.ABOVE
        return int(value) > int(bound) if is_above else int(value) < int(bound)

    def __str__(self) -> str:
        match self.operator:
            case Operator.EXISTS:
                return self.key
            case Operator.MISSING:
                return f"!{self.key}"
            case Operator.ABOVE | Operator.BELOW:
                return f"{self.key}{self.operator.value}{next(iter(self.values))}"
            case _:
                return f"{self.key} {self.operator.value} ({','.join(sorted(self.values))})"


class Selector(NamedTuple):
    """Requirements that must all hold."""

    requirements: tuple[Condition, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a device with these labels is selected, by a selector that was written."""
        written = [each for each in self.requirements if isinstance(each, Requirement)]
        assert len(written) == len(self.requirements)
        return all(requirement.holds(labels) for requirement in written)

    def also(self, other: Selector) -> Selector:
        """Return the selector of what both select."""
        return Selector(self.requirements + other.requirements)

    def where(self, *conditions: Condition) -> Selector:
        """Return the selector of what this one selects and all of these hold for."""
        return Selector(self.requirements + conditions)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


class Listed(NamedTuple):
    """A device is one of these."""

    devices: frozenset[str]


class Without(NamedTuple):
    """A device is not selected by this."""

    selector: Selector


class OfKinds(NamedTuple):
    """The named facts of a device's inventory, as text, are one of these; empty: not told."""

    names: tuple[str, ...]
    values: frozenset[tuple[str, ...]]


Condition = Requirement | Listed | Without | OfKinds


def parse(text: str) -> Selector:
    """Read a selector. Raises SelectorInvalid, which names the column (from 1)."""
    if len(text) > SELECTOR_CHARS_MAX:
        raise SelectorInvalid(f"the selector is longer than {SELECTOR_CHARS_MAX} characters")
    tokens = _Tokens(text)
    if tokens.peek() == "":
        return Selector()
    found = [_requirement(tokens)]
    while tokens.peek() != "":
        tokens.expect(",")
        found.append(_requirement(tokens))
    return Selector(tuple(found))


class _Tokens:
    """The rest of a selector that is not read yet."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = _skip(text, 0)

    def peek(self) -> str:
        """Return the next token without reading it; empty at the end."""
        if self._at == len(self._text):
            return ""
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self.refusal(f"unexpected character {self._text[self._at]!r}")
        return found[0]

    def take(self) -> str:
        """Read the next token."""
        token = self.peek()
        self._at = _skip(self._text, self._at + len(token))
        return token

    def expect(self, wanted: str) -> None:
        """Read the next token, which must be `wanted`."""
        if self.peek() != wanted:
            raise self.refusal(f"expected {wanted!r}, found {self._found()}")
        self.take()

    def word(self, fits: Callable[[str], bool], what: str) -> str:
        """Read the next token, which must be a label's name or value."""
        if self.peek() == "" or not fits(self.peek()):
            raise self.refusal(f"expected {what}, found {self._found()}")
        return self.take()

    def refusal(self, reason: str) -> SelectorInvalid:
        """Return the error for what stands here."""
        return SelectorInvalid(f"selector {self._text!r:.200}, column {self._at + 1}: {reason}")

    def _found(self) -> str:
        return repr(self.peek()) if self.peek() else "the end"


def _skip(text: str, start: int) -> int:
    space = _SPACE.match(text, start)
    return space.end() if space else start


def _requirement(tokens: _Tokens) -> Requirement:
    if tokens.peek() == "!":
        tokens.take()
        return Requirement(tokens.word(label.is_key, "a label's name"), Operator.MISSING)
    key = tokens.word(label.is_key, "a label's name")
    match tokens.peek():
        case "" | ",":
            return Requirement(key, Operator.EXISTS)
        case "=" | "==":
            tokens.take()
            return Requirement(key, Operator.IN, frozenset({_value(tokens)}))
        case "!=":
            tokens.take()
            return Requirement(key, Operator.NOT_IN, frozenset({_value(tokens)}))
        case "in" | "notin":
            return Requirement(key, Operator(tokens.take()), _values(tokens))
        case ">" | "<":
            operator = Operator(tokens.take())
            return Requirement(key, operator, frozenset({tokens.word(_is_number, "a number")}))
        case found:
            raise tokens.refusal(
                f"expected '=', '!=', '>', '<', 'in', 'notin' or ',' after {key!r}, found {found!r}"
            )


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _value(tokens: _Tokens) -> str:
    # A value may be empty: `a=` and `a=,b` are legal.
    if tokens.peek() in {"", ",", ")"}:
        return ""
    return tokens.word(label.is_value, "a label's value")


def _values(tokens: _Tokens) -> frozenset[str]:
    tokens.expect("(")
    found = {_value(tokens)}
    while tokens.peek() == ",":
        tokens.take()
        found.add(_value(tokens))
    tokens.expect(")")
    return frozenset(found)
