"""A watch survives being written down, and a standing holds over windows."""

from __future__ import annotations

import numpy as np
import pytest

from control_plane.telemetry import standing
from control_plane.telemetry.standing import Rules, Standing, Watched
from firmware_bundles.errors import Malformed
from firmware_bundles.sketches import baseline, watch, watch_codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.sketch import Sketch
from firmware_bundles.sketches.watch import Settings, Span, State, Watch

ROWS, HOUR = 300, 3_600.0
RULES = Rules(Settings(reference_rows=1_500), quiet_windows=4)


def _facts() -> Baseline:
    random = np.random.default_rng(1)
    rows = random.normal(size=(2_000, 3)).astype(np.float32)
    return baseline.make({"x": rows}, np.zeros((2_000, 0), dtype=np.float32), ())


FACTS = _facts()


def _span(number: int, *, shift: float = 0.0, rows: int = ROWS) -> Span:
    random, sketch = np.random.default_rng(number), Sketch(FACTS)
    values = random.normal(0.1, 1, (rows, 3)).astype(np.float32)
    values[:, 1] += shift
    sketch.update(values, np.zeros((rows, 0), dtype=np.float32))
    return Span(sketch, number * HOUR, (number + 1) * HOUR)


def _stand(spans: list[Span]) -> list[Standing]:
    watched, found = Watched(), []
    for span in spans:
        watched = standing.take(watched, span, RULES)
        found.append(watched.standing)
    return found


QUIET = [_span(number) for number in range(12)]


@pytest.mark.parametrize("windows", [0, 3, 5, 9])
def test_a_watch_goes_on_from_its_bytes_as_if_it_had_never_stopped(windows: int) -> None:
    """What is tested after a restart has the same evidence, to the last bit."""
    kept = Watch()
    for span in [*QUIET[:windows], _span(90, rows=40)]:
        kept, _ = watch.advance(kept, span, RULES.settings)
    read = watch_codec.parse_watch(watch_codec.encode_watch(kept), FACTS)
    assert watch_codec.encode_watch(read) == watch_codec.encode_watch(kept)
    for span in (_span(91), _span(92, shift=0.4), _span(93, shift=0.4)):
        kept, said = watch.advance(kept, span, RULES.settings)
        read, said_after_restart = watch.advance(read, span, RULES.settings)
        assert said_after_restart == said


def test_a_watch_of_another_baseline_is_refused() -> None:
    """A reference counts only against the bins that it was counted in."""
    kept, _ = watch.advance(Watch(), _span(1), RULES.settings)
    other = baseline.make(
        {"y": np.arange(100, dtype=np.float32)[:, None]}, np.zeros((100, 0), np.float32), ()
    )
    with pytest.raises(Malformed, match="another baseline"):
        watch_codec.parse_watch(watch_codec.encode_watch(kept), other)


def test_a_device_is_commissioned_before_anything_is_said_of_change() -> None:
    """Until the reference is complete the state says so, and how far it is."""
    found = _stand(QUIET)
    assert [each.state for each in found[:5]] == [State.COMMISSIONING] * 5
    assert [each.reference_rows for each in found[:6]] == [300, 600, 900, 1_200, 1_500, 1_500]
    assert {each.state for each in found[5:]} == {State.STABLE}
    assert found[-1].tested == 7
    assert found[-1].since == 6 * HOUR


def test_a_change_stands_until_enough_windows_were_quiet() -> None:
    """It begins once, rings while it persists, and one quiet window does not end it."""
    shifted = [_span(20 + number, shift=1.5) for number in range(6)]
    after = [_span(40 + number) for number in range(6)]
    found = _stand([*QUIET, *shifted, *after])
    begun = next(at for at, each in enumerate(found) if each.is_changed)
    held = found[begun : 12 + 6 + 3]
    assert all(each.is_changed and each.since == held[0].since for each in held)
    assert held[0].findings[0].column == "x[1]"
    assert held[-1].rings >= 2
    assert [each.state for each in found[-3:]] == [State.STABLE] * 3
    assert found[-1].changed is not None


def test_a_window_that_comes_too_late_is_counted_and_not_tested() -> None:
    """The watch goes on in order of time."""
    before, after = _stand([*QUIET, QUIET[3]])[-2:]
    assert (after.late, after.taken, after.tested) == (1, before.taken, before.tested)


def test_commissioning_anew_forgets_the_reference_and_keeps_what_was_counted() -> None:
    """Whoever moved a camera says so; windows of before do not come back."""
    watched = Watched()
    for span in QUIET:
        watched = standing.take(watched, span, RULES)
    fresh = standing.anew(watched.standing)
    assert fresh.standing.state is State.COMMISSIONING
    assert (fresh.standing.taken, fresh.standing.tested) == (12, 0)
    again = standing.take(fresh, QUIET[5], RULES)
    assert again.standing.late == 1
    assert standing.take(fresh, _span(30), RULES).standing.reference_rows == ROWS
