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


def rules() -> list[str]:
    """Return, in sentences, what a broker other than mosquitto has to keep."""
    device = "DEVICE"
    return [
        "TLS 1.2 or later; clients show a certificate under ca.pem that crl.pem does not list",
        "user name and client id are the certificate's common name, whatever the client says",
        "anything that is not allowed here is denied",
        f"DEVICE reads {topics.all_down(device)}",
        *(f"DEVICE writes {topics.up(device, kind)}" for kind in Up),
        f"every device reads {topics.REPOSITORY_HINT}",
        f"every device reads {topics.repository_file('NAME').replace('NAME', '+')}",
        f"every device reads {topics.chunk('+')}",
        f"{SERVICE} reads and writes {topics.ALL}",
    ]


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
