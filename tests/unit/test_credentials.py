"""Tokens: only a digest is kept, and only the whole text matches it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from control_plane.fleet import credentials
from control_plane.fleet.credentials import Kind


def test_a_token_matches_its_digest_and_no_other() -> None:
    """The text of a token matches what was stored of it; another's does not."""
    one, other = credentials.mint(Kind.API), credentials.mint(Kind.API)
    assert credentials.matches(one.text, one.digest)
    assert not credentials.matches(other.text, one.digest)
    assert not credentials.matches(one.text[:-1], one.digest)


def test_what_is_stored_does_not_tell_the_text() -> None:
    """Prefix and digest hold nothing of the secret part."""
    made = credentials.mint(Kind.ENROLMENT)
    secret = made.text.removeprefix(f"{made.prefix}_")
    assert secret not in made.digest
    assert made.prefix.startswith("enrol_")
    assert len(secret) == 64


def test_the_prefix_of_a_text_finds_its_row() -> None:
    """The prefix read from a text is the one that was stored."""
    made = credentials.mint(Kind.API)
    assert credentials.prefix(made.text) == made.prefix


@given(st.text(max_size=400))
def test_any_text_can_be_asked_about(text: str) -> None:
    """Whatever somebody sends as a token is answered, never raised."""
    assert not credentials.matches(text, credentials.mint(Kind.API).digest)
    assert isinstance(credentials.prefix(text), str)
