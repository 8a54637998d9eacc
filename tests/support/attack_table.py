"""All attacks, in the order of `docs/reference/attacks.md`."""

from __future__ import annotations

from support import attacks, forgeries

ATTACKS = (*attacks.ROWS, *forgeries.ROWS)
