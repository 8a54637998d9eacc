"""Prints docs/reference/checks.md: what is checked before a rollout starts.

Takes all from `control_plane/rollouts/checks.py`: the first paragraph of a check's docstring is
what it means, the second what to do.

    .venv/bin/python scripts/check_table.py > docs/reference/checks.md
"""

from __future__ import annotations

import inspect
import sys

from control_plane.rollouts.checks import CHECKS, Check

_HEAD = """\
# Checks before a rollout starts

Written by `scripts/check_table.py` from `control_plane/rollouts/checks.py`: change that file.

`shoal rollout check -f FILE`, `shoal rollout start` (also with `--dry-run`) and the API
say what is doubtful about a rollout: a severity, the field, a sentence with the numbers, and one of
these codes. Nothing of it keeps a rollout from starting, unless somebody is strict: with `--strict`
a warning is a refusal (exit status 3, code `input.rollout_doubtful`). What cannot work at all is
refused anyway ([errors](errors.md)).

What a gate could find is reckoned with the tests that judge later, for a model that errs in 5 % of
its labels. Of devices alike it is assumed that latency and power differ by 10 %, that 0.1 % of the
requests fail (differing by 0.2 points), that a worker dies once in ten days, and that the input of
one in twenty changes by itself; and that a device answers once a second. A
[simulation](../how-to/simulate-a-rollout.md) asks more, and takes longer.

| code | severity | means | what to do |
|---|---|---|---|
"""


def page() -> str:
    """Return the whole page."""
    return _HEAD + "".join(_row(check) for check in CHECKS)


def _row(check: Check) -> str:
    means, advice = (
        " ".join(each.split()) for each in inspect.cleandoc(check.find.__doc__ or "").split("\n\n")
    )
    return f"| `{check.code}` | {check.severity.value} | {means} | {advice} |\n"


if __name__ == "__main__":
    sys.stdout.write(page())
