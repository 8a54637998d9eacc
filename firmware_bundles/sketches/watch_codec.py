"""A watch as bytes, and back: what must be kept of a device between two of its windows.

Bytes that cannot be a watch end in Malformed. A reference travels as the rows that it was
commissioned with; what is tested with follows from them. One version byte, then a MessagePack
array: gathered windows and their times, reference, scores (a zlib stream of little-endian float64),
ages (LEB128). Sketches stand in their own format (`codec`).
"""

from __future__ import annotations

from math import isfinite
from typing import Annotated, Final

import msgspec
import numpy as np
from msgspec import Meta

from firmware_bundles import limits
from firmware_bundles.errors import Malformed, VersionUnsupported
from firmware_bundles.sketches import codec
from firmware_bundles.sketches.baseline import Baseline
from firmware_bundles.sketches.change import QUESTIONS, Reference
from firmware_bundles.sketches.evidence import SCORE_MAX, Evidence
from firmware_bundles.sketches.watch import Span, Watch
from firmware_bundles.wire import varints
from firmware_bundles.wire.compression import deflate, inflate

_VERSION: Final = 1
_FLOAT: Final = np.dtype("<f8")
_AGE_MAX: Final = 2**40
_STREAMS_MAX: Final = len(QUESTIONS) * limits.COLUMNS_MAX
_Body = Annotated[bytes, Meta(max_length=limits.TELEMETRY_INFLATED_BYTES_MAX)]


class _Kept(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """The fields in their order; empty bytes stand for what is not there."""

    gathered: _Body
    started: float
    ended: float
    reference: _Body
    scores: _Body
    ages: _Body


def encode_watch(watch: Watch) -> bytes:
    """Return the bytes of a watch; they hold all of it, to the last bit."""
    gathered, reference, evidence = watch
    kept = _Kept(
        gathered=codec.encode_sketch(gathered.sketch) if gathered else b"",
        started=gathered.started if gathered else 0.0,
        ended=gathered.ended if gathered else 0.0,
        reference=codec.encode_sketch(reference.sketch) if reference else b"",
        scores=deflate(evidence.scores.astype(_FLOAT).tobytes()) if evidence else b"",
        ages=varints.encode(evidence.ages) if evidence else b"",
    )
    return bytes([_VERSION]) + msgspec.msgpack.encode(kept)


def parse_watch(data: bytes, baseline: Baseline) -> Watch:
    """Parse the bytes of a watch over a model with this baseline.

    Raises Malformed or VersionUnsupported, also where it was kept against another baseline.
    """
    if not data:
        raise Malformed("the watch is empty")
    if data[0] != _VERSION:
        raise VersionUnsupported(f"the watch has format {data[0]}; this side reads {_VERSION}")
    try:
        kept = msgspec.msgpack.decode(data[1:], type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the watch cannot be read: {error}") from error
    reference = _reference(kept.reference, baseline)
    if (reference is None) != (not kept.scores) or (reference is None) != (not kept.ages):
        raise Malformed("the watch has evidence without a reference, or a reference without")
    return Watch(
        gathered=_gathered(kept, baseline),
        reference=reference,
        evidence=_evidence(kept, len(QUESTIONS) * len(baseline.columns)) if reference else None,
    )


def _gathered(kept: _Kept, baseline: Baseline) -> Span | None:
    if not kept.gathered:
        return None
    if not (isfinite(kept.started) and isfinite(kept.ended)):
        raise Malformed("the watch gathered windows of no time")
    return Span(codec.parse_sketch(kept.gathered, baseline), kept.started, kept.ended)


def _reference(body: bytes, baseline: Baseline) -> Reference | None:
    if not body:
        return None
    sketch = codec.parse_sketch(body, baseline)
    if not sketch.rows:
        raise Malformed("the watch was commissioned without a row")
    return Reference(sketch, baseline.window_rows)


def _evidence(kept: _Kept, streams: int) -> Evidence:
    plain = inflate(kept.scores, _STREAMS_MAX * _FLOAT.itemsize, "the watch's scores")
    if len(plain) != streams * _FLOAT.itemsize:
        raise Malformed(f"the watch has {len(plain)} bytes of scores for {streams} streams")
    scores = np.frombuffer(plain, dtype=_FLOAT).astype(np.float64)
    ages = varints.decode(kept.ages, 0, streams, "the watch's ages")
    is_sound = np.isfinite(scores) & (scores >= 0) & (scores <= SCORE_MAX)
    if not (is_sound & (ages.values < _AGE_MAX)).all() or ages.end != len(kept.ages):
        raise Malformed("the watch's evidence contradicts itself")
    return Evidence(scores, ages.values)
