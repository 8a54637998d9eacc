"""The page of attacks and the table that the system tests play are the same."""

from __future__ import annotations

import re
from pathlib import Path

from firmware_bundles.errors import ShoalError, from_code
from support.attack_row import Victim
from support.attack_table import ATTACKS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "attacks.md"
# The Uptane standard, "Description of threats", and what shoal's own messages add.
THREATS = {
    "eavesdrop",
    "drop request",
    "slow retrieval",
    "freeze",
    "partial bundle",
    "denial",
    "rollback",
    "endless data",
    "mix-and-match",
    "arbitrary software",
    "fast-forward",
    "cross-device set",
    "replayed set",
    "replayed report",
    "forged report",
    "forged acknowledgement",
    "forged telemetry",
    "forged presence",
}


def test_the_page_lists_each_attack_with_its_code() -> None:
    """Name, threat and code of every row, in the order of the table."""
    rows = re.findall(
        r"^\| `([a-z-]+)` \| ([^|]+) \| (?:`([a-z._]+)`)? ?\|", PAGE.read_text(), flags=re.MULTILINE
    )
    assert rows == [(attack.name, attack.threat, attack.code) for attack in ATTACKS]


def test_every_threat_has_an_attack() -> None:
    """No row of the standard's list is left out, and none is invented."""
    assert {attack.threat for attack in ATTACKS} == THREATS
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


def test_every_code_is_one_of_ours() -> None:
    """What is empty is refused by nobody."""
    for attack in ATTACKS:
        assert (attack.code == "") == (attack.victim is Victim.NOBODY)
        assert attack.code == "" or type(from_code(attack.code, "")) is not ShoalError
