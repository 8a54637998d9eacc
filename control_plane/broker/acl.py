"""Who may read and write which topic at mosquitto. Pure text; read by the broker alone.

There is no section for anonymous clients, so the default is to deny. A subscription is never
refused by this file, only its delivery: SUBACK means nothing.
"""

from __future__ import annotations

from typing import Final

from firmware_bundles.wire import topics
from firmware_bundles.wire.topics import Up

# Outside the alphabet of device ids: no device can be given this name.
SERVICE: Final = "svc.control"
_USER: Final = "%u"


def text() -> str:
    """Return the access file: each device its own branch, the service everything."""
    writes = "\n".join(f"pattern write {topics.up(_USER, kind)}" for kind in Up)
    return f"""\
# Written at each start.
pattern read {topics.all_down(_USER)}
{writes}
pattern read {topics.REPOSITORY_HINT}
pattern read {topics.repository_file("NAME").replace("NAME", "+")}
pattern read {topics.chunk("+")}

user {SERVICE}
topic readwrite {topics.ALL}
"""
