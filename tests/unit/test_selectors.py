"""Label selectors: their syntax, what they match, and where they say that one is broken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from control_plane.fleet import labels, selectors
from control_plane.fleet.selectors import Operator, Requirement, Selector
from firmware_bundles.errors import SelectorInvalid

KEYS = st.from_regex(r"[a-z0-9](?:[a-z0-9./_-]{0,8}[a-z0-9])?", fullmatch=True)
VALUES = st.from_regex(r"(?:[a-z0-9](?:[a-z0-9._-]{0,8}[a-z0-9])?)?", fullmatch=True)
REQUIREMENTS = st.one_of(
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from([Operator.EXISTS, Operator.MISSING]),
        st.just(frozenset()),
    ),
    st.builds(
        Requirement,
        KEYS,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.frozensets(VALUES, min_size=1, max_size=4),
    ),
)
LABELS = st.dictionaries(KEYS, VALUES, max_size=6)
BERLIN = {"site": "berlin", "arch": "armv7l", "line": "a", "debug": ""}


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        ("", True),
        ("  ", True),
        ("site=berlin", True),
        ("site==berlin", True),
        ("site = paris", False),
        ("arch!=armv7l", False),
        ("arch!=x86-64,site=berlin", True),
        ("color!=red", True),
        ("line in (a, b)", True),
        ("line notin (a,b)", False),
        ("color notin (red)", True),
        ("debug", True),
        ("!debug", False),
        ("! color", True),
        ("debug=", True),
        ("debug=,site", True),
        ("site=berlin,arch=armv7l,!color,line in (a)", True),
    ],
)
def test_matches_as_kubernetes_does(text: str, *, is_match: bool) -> None:
    """A selector means what it means in Kubernetes; the empty one takes all."""
    assert selectors.parse(text).matches(BERLIN) is is_match


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("=a", 1),
        ("a=b,", 5),
        ("a=b c", 5),
        ("a in b", 6),
        ("a in (b", 8),
        ("a in", 5),
        ("a ~ b", 3),
        ("a=b;c", 4),
        ("!", 2),
        ("-a=b", 1),
        ("a=/b", 3),
        ("a!b", 2),
        ("a=b,,c", 5),
    ],
)
def test_names_the_column_of_a_mistake(text: str, column: int) -> None:
    """A broken selector is refused with the column where it breaks."""
    with pytest.raises(SelectorInvalid, match=f"column {column}:"):
        selectors.parse(text)


def test_refuses_endless_selectors() -> None:
    """A selector has a largest length."""
    with pytest.raises(SelectorInvalid, match="longer than"):
        selectors.parse("a" * (selectors.SELECTOR_CHARS_MAX + 1))


@given(st.lists(REQUIREMENTS, max_size=5), LABELS)
def test_survives_being_written_down(
    requirements: list[Requirement], found: dict[str, str]
) -> None:
    """What a selector prints is read back as the same selector."""
    selector = Selector(tuple(requirements))
    again = selectors.parse(str(selector))
    assert again == selector
    assert again.matches(found) is selector.matches(found)


@given(st.text(alphabet="ab=!(),in not./-_ \t\n\u00e4", max_size=40))
@example("a in (,)")
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text does anything but parse or raise SelectorInvalid."""
    with contextlib.suppress(SelectorInvalid):
        selectors.parse(text).matches(BERLIN)


@given(st.lists(REQUIREMENTS, max_size=3), st.lists(REQUIREMENTS, max_size=3), LABELS)
def test_also_selects_what_both_select(
    left: list[Requirement], right: list[Requirement], found: dict[str, str]
) -> None:
    """Two selectors joined match what each of them matches."""
    one, other = Selector(tuple(left)), Selector(tuple(right))
    assert one.also(other).matches(found) is (one.matches(found) and other.matches(found))


@given(VALUES)
def test_values_of_labels_can_be_selected(value: str) -> None:
    """Each value that a label may have can stand in a selector."""
    assert labels.is_value(value)
    assert selectors.parse(f"key={value}").matches({"key": value})
