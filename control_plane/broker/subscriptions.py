"""Who subscribes to more than a device needs, read off the broker's log. Pure.

The access file cannot refuse a subscription, only its delivery; and what every device may read, it
may read in any amount. So a wildcard over all chunks is noticed here, not refused.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from control_plane.broker import acl
from firmware_bundles.wire import topics

# mosquitto's line for `log_type subscribe`: time, client, QoS, filter.
_LINE: Final = re.compile(r"\d+: (\S+) [012] (.+)")
_WILDCARDS: Final = ("+", "#")
_NAME: Final = "NAME"


class Subscription(NamedTuple):
    """What a client asked for; mosquitto makes sure that its name is its certificate's."""

    client: str
    filter: str


def parse(line: str) -> Subscription | None:
    """Return the subscription that a line of the log tells of, if it does."""
    found = _LINE.fullmatch(line)
    return None if found is None else Subscription(found[1], found[2])


def is_needed(wanted: Subscription) -> bool:
    """Whether a device needs this: its own branch, or one named file, chunk or hint."""
    client, filter_ = wanted
    if client == acl.SERVICE:
        return True
    own = topics.all_down(client)
    if filter_ == own:
        return True
    named = (own.removesuffix("#"), topics.repository_file(_NAME).removesuffix(_NAME))
    prefixes = (*named, topics.chunk(""))
    has_wildcard = any(sign in filter_ for sign in _WILDCARDS)
    return not has_wildcard and (filter_ == topics.REPOSITORY_HINT or filter_.startswith(prefixes))
