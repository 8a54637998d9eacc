"""Segments from devices into the store, each counted exactly once.

A segment is immutable and has a key, so that storing it twice changes nothing. It is acknowledged
only after the transaction that holds it was committed: until then the device keeps it and sends it
again. What can never be stored is acknowledged with the fault, and the device parks it; what is
not proven to come from the device is dropped without a word.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec
from msgspec import UNSET

from control_plane.store.arrivals import Sent, Stored
from control_plane.store.intake import Unstorable
from control_plane.telemetry import latency_bins, pairing
from control_plane.telemetry.labels import Settled, Truth, count, join, sort
from control_plane.telemetry.segment_rows import Rows, read
from firmware_bundles.errors import (
    AuthenticationFailed,
    Malformed,
    MessageTooLarge,
    SegmentOverlapping,
    ShoalError,
    WireError,
)
from firmware_bundles.wire import codec, topics
from firmware_bundles.wire.columns import (
    Labels,
    Predictions,
    decode_predictions,
)
from firmware_bundles.wire.messages import (
    Acknowledgement,
    Fault,
    Message,
    Segment,
    SegmentKey,
    SegmentKind,
)
from firmware_bundles.wire.totals import totals_of_each

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from control_plane.store.intake import Intake

_LOG: Final = logging.getLogger(__name__)
_TAG_BYTES: Final = hashlib.sha256().digest_size
_FAULT_CHARS_MAX: Final = 400
_TURNS: Final = {SegmentKind.PREDICTIONS: 0, SegmentKind.LABELS: 1}
_LAST_TURN: Final = 2


class Store(Protocol):
    """Where segments are stored."""

    def storing(self, received: float) -> AbstractContextManager[Intake]:
        """Give one transaction."""


@dataclass
class Tally:
    """What was acknowledged since the start; what was refused is counted by code."""

    stored: int = 0
    duplicates: int = 0


class _Keyed(Message, frozen=True, kw_only=True):
    """The part of a segment that an acknowledgement needs."""

    key: SegmentKey


class _Arrival(NamedTuple):
    """A message that its device proved to have sent: a segment with its rows, or why not."""

    device_id: str
    key: SegmentKey
    sealed: Segment | None = None
    rows: Rows | None = None
    fault: ShoalError | None = None


_Answer = tuple[_Arrival, Stored | ShoalError]


class Ingest:
    """Stores what devices send.

    `secrets` gives a device's key, None for one that is unknown; `tell` carries acknowledgements,
    and may lose them: the device sends again; `suspect` hears what was sent in a device's name
    without its seal; `refused` counts by error code what was not stored.
    """

    def __init__(
        self,
        store: Store,
        secrets: Callable[[str], bytes | None],
        tell: Callable[[str, bytes], None],
        clock: Callable[[], float],
        suspect: Callable[[str, ShoalError], None] = lambda _device, _error: None,
        refused: Counter[str] | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter() if refused is None else refused
        self._store = store
        self._suspect = suspect
        self._secrets = secrets
        self._tell = tell
        self._clock = clock
        self._keys: dict[str, bytes] = {}
        self.tally = Tally()

    def ingest(self, batch: Sequence[tuple[str, bytes]]) -> None:
        """Store a batch of (device, payload) in one transaction, then acknowledge.

        An error of the database goes to the caller: nothing was acknowledged, all comes again.
        """
        opened = [self._open(device_id, data) for device_id, data in batch]
        arrivals = [arrival for arrival in opened if arrival is not None]
        if not arrivals:
            return
        for arrival, outcome in self._take(arrivals):
            self._count(arrival, outcome)
            self._acknowledge(arrival, outcome)

    def _take(self, arrivals: Sequence[_Arrival]) -> list[_Answer]:
        """Store in one transaction, or, where something can never be stored, in halves.

        One of them must not keep the others from it; which one it is shows when it is alone.
        """
        try:
            return self._take_all(arrivals)
        except Unstorable:
            if len(arrivals) == 1:
                return self._take_again(arrivals)
        middle = len(arrivals) // 2
        return self._take(arrivals[:middle]) + self._take(arrivals[middle:])

    def _take_again(self, arrivals: Sequence[_Arrival]) -> list[_Answer]:
        """Another process may have stored the same a moment ago: by now that shows."""
        try:
            return self._take_all(arrivals)
        except Unstorable as error:
            return [(arrivals[0], Malformed(f"the segment cannot be stored: {error}"))]

    def _take_all(self, arrivals: Sequence[_Arrival]) -> list[_Answer]:
        with self._store.storing(self._clock()) as intake:
            sound = _sound(arrivals)
            stored = zip(sound, intake.add(sound), strict=True)
            new = [None if arrival.fault else next(stored) for arrival in arrivals]
            outcomes: dict[int, Stored | ShoalError] = {}
            # All of it is stored: what is joined with others is counted after them.
            turns = [_TURNS.get(arrival.key.kind, _LAST_TURN) for arrival in arrivals]
            for at in sorted(range(len(arrivals)), key=turns.__getitem__):
                arrival, sent = arrivals[at], new[at]
                if arrival.fault is not None:
                    outcomes[at] = arrival.fault
                elif sent is not None:
                    outcomes[at] = _settle(intake, *sent, arrival.rows)
            answers = [(arrival, outcomes[at]) for at, arrival in enumerate(arrivals)]
            intake.finish()
        return answers

    def _open(self, device_id: str, data: bytes) -> _Arrival | None:
        try:
            return _decode(device_id, self._unseal(device_id, data))
        except (AuthenticationFailed, MessageTooLarge) as error:
            self._drop(device_id, error)
        except WireError as error:
            # The tag was right: the device shall park what this side cannot read.
            segment_key = _key_of(data[_TAG_BYTES:])
            if segment_key is not None:
                return _Arrival(device_id, segment_key, fault=error)
            self._drop(device_id, error)
        except (ValueError, OverflowError):
            _LOG.exception("telemetry dropped device=%s code=%s", device_id, ShoalError.code)
            self.refused[ShoalError.code] += 1
        return None

    def _unseal(self, device_id: str, data: bytes) -> Segment:
        topic = topics.up(device_id, topics.Up.TELEMETRY)
        known = self._keys.get(device_id)
        if known is not None:
            try:
                return codec.unseal(Segment, known, topic, data)
            except AuthenticationFailed:
                del self._keys[device_id]  # perhaps enrolled again, with a new secret
        key = self._secrets(device_id)
        if key is None:
            raise AuthenticationFailed(f"device {device_id} is not known")
        self._keys[device_id] = key
        return codec.unseal(Segment, key, topic, data)

    def _drop(self, device_id: str, error: ShoalError) -> None:
        self.refused[error.code] += 1
        _LOG.warning("telemetry dropped device=%s code=%s", device_id, error.code)
        self._suspect(device_id, error)

    def _count(self, arrival: _Arrival, outcome: Stored | ShoalError) -> None:
        if isinstance(outcome, ShoalError):
            self.refused[outcome.code] += 1
            _LOG.warning(
                "telemetry refused device=%s segment=%s/%s/%d code=%s",
                *(arrival.device_id, arrival.key.incarnation, arrival.key.kind.value),
                *(arrival.key.first, outcome.code),
            )
        elif outcome is Stored.DUPLICATE:
            self.tally.duplicates += 1
        else:
            self.tally.stored += 1

    def _acknowledge(self, arrival: _Arrival, outcome: Stored | ShoalError) -> None:
        key, fault = self._keys.get(arrival.device_id), None
        if key is None:
            return  # removed meanwhile: nobody is there to be told
        if isinstance(outcome, ShoalError):
            fault = Fault(code=outcome.code, message=outcome.message[:_FAULT_CHARS_MAX])
        topic = topics.down(arrival.device_id, topics.Down.ACKNOWLEDGEMENT)
        message = Acknowledgement(key=arrival.key, fault=fault)
        self._tell(topic, codec.seal(key, topic, message))


def _key_of(body: bytes) -> SegmentKey | None:
    try:
        return msgspec.msgpack.decode(body, type=_Keyed).key
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _decode(device_id: str, sealed: Segment) -> _Arrival:
    """Read the rows, or say what is wrong with them."""
    try:
        rows = read(sealed)
    except WireError as error:
        return _Arrival(device_id, sealed.key, fault=error)
    return _Arrival(device_id, sealed.key, sealed, rows)


def _settle(intake: Intake, sent: Sent, stored: Stored, rows: Rows | None) -> Stored | ShoalError:
    """Count what a segment brought if it is new; answer what became of it."""
    device_id, sealed, *_ = sent
    key = sealed.key
    if stored is Stored.OVERLAPPING:
        return SegmentOverlapping(
            f"rows {key.first}..{key.last} of {key.incarnation} overlap others that are stored"
        )
    if stored is Stored.NEW:
        intake.count(sent, rows.latency_us if isinstance(rows, Predictions) else None)
        _count_new(intake, device_id, sealed, rows)
    return stored


def _count_new(intake: Intake, device_id: str, sealed: Segment, rows: Rows | None) -> None:
    intake.pairs.reach(device_id, sealed)
    if isinstance(rows, Labels):
        _count_labels(intake, device_id, sealed, rows)
    elif isinstance(rows, Predictions) and sealed.key.kind is SegmentKind.SHADOW:
        pairing.settle_shadow(intake.pairs, device_id, sealed, rows)
    elif isinstance(rows, Predictions):
        pairing.settle_live(intake.pairs, device_id, sealed, rows)
        _settle_waiting(intake, device_id, sealed, rows)


def _sound(arrivals: Sequence[_Arrival]) -> list[Sent]:
    """Return what has no fault, with what its predictions add up to, None for other kinds."""
    sent = [
        (each.device_id, each.sealed, each.rows) for each in arrivals if each.sealed is not None
    ]
    told = {
        at: rows.latency_us
        for at, (_, sealed, rows) in enumerate(sent)
        if isinstance(rows, Predictions) and sealed.key.kind is SegmentKind.PREDICTIONS
    }
    bins = dict(zip(told, latency_bins.encoded(list(told.values())), strict=True))
    untold = {at: each for at, each in told.items() if sent[at][1].totals is UNSET}
    works = dict(zip(untold, totals_of_each(list(untold.values())), strict=True))
    return [
        Sent(device_id, sealed, works.get(at, sealed.totals or None), bins.get(at))
        for at, (device_id, sealed, _) in enumerate(sent)
    ]


def _settle_waiting(intake: Intake, device_id: str, sealed: Segment, rows: Predictions) -> None:
    """Count what was told of these predictions before they came."""
    waiting = intake.waiting(device_id, sealed.key)
    if not waiting:
        return
    joined = join(rows, [each.truth for each in waiting])
    left = set(joined.wanted)
    intake.settle([each for each in waiting if each.truth not in left])
    intake.count_labels(device_id, sealed.key, sealed.family, sealed.model, count(joined.settled))
    pairing.settle_truths(intake.pairs, device_id, sealed, sealed.model, joined.settled)


def _count_labels(intake: Intake, device_id: str, sealed: Segment, rows: Labels) -> None:
    """Count truths with the answers they bring, else with stored ones; else let them wait.

    What was told of a prediction before counts no more.
    """
    told = sort(rows)
    answers = {(each.truth.incarnation, each.truth.sequence): each.answer for each in told.settled}
    everything = [*(each.truth for each in told.settled), *told.wanted]
    fresh = intake.remember(device_id, everything)
    settled: dict[tuple[str, str], list[Settled]] = {}
    wanted: list[Truth] = []
    for truth in fresh:
        answer = answers.get((truth.incarnation, truth.sequence))
        if answer is None:
            wanted.append(truth)
        else:
            settled.setdefault((sealed.family, sealed.model), []).append(Settled(truth, answer))
    left: list[Truth] = []
    for incarnation in dict.fromkeys(each.incarnation for each in wanted):
        of_one = [each for each in wanted if each.incarnation == incarnation]
        left += _search(intake, device_id, of_one, settled)
    for (family, model), found in settled.items():
        intake.count_labels(device_id, sealed.key, family, model, count(found))
        pairing.settle_truths(intake.pairs, device_id, sealed, model, found)
    intake.keep_labels(device_id, left)


def _search(
    intake: Intake,
    device_id: str,
    wanted: list[Truth],
    settled: dict[tuple[str, str], list[Settled]],
) -> list[Truth]:
    """Settle truths of one incarnation with stored predictions; return what is left."""
    numbers = [each.sequence for each in wanted]
    for answers in intake.answers(device_id, wanted[0].incarnation, numbers):
        joined = join(decode_predictions(answers.body), wanted)
        wanted = joined.wanted
        settled.setdefault((answers.family, answers.model), []).extend(joined.settled)
    return wanted
