"""What a segment says of its rows is held against them before anything is counted."""

from __future__ import annotations

import msgspec
import pytest

from control_plane.telemetry.segment_rows import read
from firmware_bundles.errors import Malformed
from firmware_bundles.wire.messages import Totals
from support import segments


@pytest.mark.parametrize(
    ("last", "totals"),
    [
        (2_000, Totals(answered=1_025, latency_us=900, log_latency=9, log_latency2=9)),
        (9, Totals(answered=9, latency_us=9 * 2**40, log_latency=9, log_latency2=9)),
        (9, Totals(answered=9, latency_us=900, log_latency=2**40, log_latency2=9)),
        (9, Totals(answered=9, latency_us=900, log_latency=9, log_latency2=2**52)),
    ],
)
def test_a_sample_that_no_segment_could_be_is_refused(last: int, totals: Totals) -> None:
    """One device must not make the sums over a fleet too large to count."""
    sent = segments.predictions([3, 7], [0, 1])
    key = msgspec.structs.replace(sent.key, first=1, last=last)
    with pytest.raises(Malformed):
        read(msgspec.structs.replace(sent, key=key, totals=totals))
