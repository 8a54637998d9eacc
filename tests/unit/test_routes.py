"""Paths lead to verbs of models, and what is remembered of them is bounded."""

from __future__ import annotations

import pytest

from agent.inference import routes
from agent.inference.routes import Route, Verb


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2", Route(Verb.SERVER)),
        ("/v2/models/a/infer", Route(Verb.INFER, "a")),
        ("/v2/models/a/versions/1/infer", Route(Verb.INFER, "a", "1")),
        ("/v2/models/versions/versions/infer", Route(Verb.MODEL, "versions", "infer")),
        ("/v2/models/a/versions/1/feedback", None),
        ("/v2/models/a/infer/", None),
        ("//v2", None),
        ("http://here/v2", None),
        ("", None),
    ],
)
def test_a_path_leads_to_one_verb_or_nowhere(path: str, route: Route | None) -> None:
    """Each time anew."""
    assert routes.of(path) == routes.of(path) == route


def test_a_path_that_is_too_long_leads_nowhere_and_is_not_remembered() -> None:
    """The memory for known paths would otherwise be as large as anybody likes."""
    before = routes._read.cache_info()
    assert routes.of("/v2/models/" + "x" * 60_000 + "/infer") is None
    assert routes._read.cache_info() == before
