"""How a device stands after its windows: pure, from a watch's verdicts to a state that holds.

A verdict is of one window. A standing goes on over them: a device that changed stands as changed
until enough tested windows were quiet, so that a change that persists is one change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from firmware_bundles.sketches import watch as watching
from firmware_bundles.sketches.watch import Finding, Settings, Span, State, Verdict, Watch

QUIET_WINDOWS: Final = 20
_BEGUN: Final = frozenset({State.STABLE, State.CHANGED})


class Rules(NamedTuple):
    """When windows ring, and after how many quiet tested ones a change is over."""

    settings: Settings
    quiet_windows: int = QUIET_WINDOWS


class Standing(NamedTuple):
    """What was said of a model on a device; times are of windows, in Unix seconds.

    `state` holds since `since`; windows up to `until` were taken, of which `late` ones came too
    late to be tested and `unreadable` ones could not be read. Of the `tested` ones `quiet` did not
    ring since the last that did, at `changed`; the present change rang `rings` times, and
    `findings` say why it last did. `reference_rows` are those of the commissioning so far.
    """

    state: State = State.COMMISSIONING
    since: float = 0.0
    until: float = 0.0
    changed: float | None = None
    score: float = 0.0
    reference_rows: int = 0
    taken: int = 0
    late: int = 0
    unreadable: int = 0
    tested: int = 0
    quiet: int = 0
    rings: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def is_changed(self) -> bool:
        """Whether the device changed, and did not yet come back."""
        return self.state is State.CHANGED


class WatchKey(NamedTuple):
    """One model on one device."""

    device_id: str
    family: str
    model: str


class WatchRow(NamedTuple):
    """A standing, whose it is, and the model's version."""

    key: WatchKey
    version: str | None
    standing: Standing


class Watched(NamedTuple):
    """A watch and what it led to."""

    watch: Watch = Watch()
    standing: Standing = Standing()


def latest(rows: Iterable[WatchRow]) -> list[WatchRow]:
    """Return the rows of the models that send windows now: the newest of each device and family."""
    newest: dict[tuple[str, str], WatchRow] = {}
    for row in rows:
        place = row.key.device_id, row.key.family
        known = newest.get(place)
        if known is None or row.standing.until > known.standing.until:
            newest[place] = row
    return list(newest.values())


def take(watched: Watched, window: Span, rules: Rules) -> Watched:
    """Take in a readable window.

    One that ended before the last that was taken is only counted: the watch goes on in order of
    time. Raises ValueError on a window of another model.
    """
    standing = watched.standing
    if standing.taken and window.ended < standing.until:
        return watched._replace(standing=standing._replace(late=standing.late + 1))
    watch, verdict = watching.advance(watched.watch, window, rules.settings)
    return Watched(watch, _follow(standing, window.ended, watch, verdict, rules))


def skip(watched: Watched) -> Watched:
    """Count a window that cannot be read."""
    standing = watched.standing
    return watched._replace(standing=standing._replace(unreadable=standing.unreadable + 1))


def anew(standing: Standing) -> Watched:
    """Begin to commission again: what is normal is to be learnt from the windows to come."""
    fresh = Standing(
        since=standing.until,
        until=standing.until,
        taken=standing.taken,
        late=standing.late,
        unreadable=standing.unreadable,
    )
    return Watched(Watch(), fresh)


def _follow(old: Standing, at: float, watch: Watch, verdict: Verdict, rules: Rules) -> Standing:
    is_tested = verdict.state in _BEGUN
    is_ringing = verdict.state is State.CHANGED
    new = old._replace(
        until=at,
        score=verdict.score,
        taken=old.taken + 1,
        tested=old.tested + is_tested,
        quiet=0 if is_ringing else old.quiet + is_tested,
        reference_rows=_reference_rows(watch),
    )
    if is_ringing:
        rings = old.rings + 1 if old.is_changed else 1
        new = new._replace(changed=at, rings=rings, findings=verdict.findings)
    state = _state(new, verdict.state, rules)
    return new if old.taken and state is old.state else new._replace(state=state, since=at)


def _state(standing: Standing, said: State, rules: Rules) -> State:
    if said is State.STABLE and standing.is_changed and standing.quiet < rules.quiet_windows:
        return State.CHANGED
    if said is State.INCONCLUSIVE and standing.state in _BEGUN:
        return standing.state  # parts of a cycle say nothing new
    return said


def _reference_rows(watch: Watch) -> int:
    if watch.reference is not None:
        return watch.reference.rows
    return watch.gathered.sketch.rows if watch.gathered else 0
