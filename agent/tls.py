"""TLS in which certificates are held against proved time, not against a clock that may be wrong.

OpenSSL judges dates by the machine's clock: at 1970 no certificate has begun, years ahead each is
over, and a device could never learn the time. So OpenSSL checks all but the dates, and the ends of
the whole chain are checked here, right after the handshake. Light, as all of the core.
"""

from __future__ import annotations

import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from agent import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# X509_V_FLAG_NO_CHECK_TIME, OpenSSL x509_vfy.h; Python has no name for it.
_NO_CHECK_TIME: Final = 0x200000


def hold_against(context: ssl.SSLContext, earliest: Callable[[], float]) -> ssl.SSLContext:
    """Let `context` take certificates that had not ended at `earliest()`; return it.

    `earliest` is the time, in Unix seconds, that is certainly past. When a certificate begins is
    not asked: one from the future only shows that our clock is late. A handshake with an ended one
    raises ssl.SSLCertVerificationError.
    """

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's own
            super().do_handshake(block)
            try:
                check_ends(_verified_chain(self), earliest())
            except ssl.SSLCertVerificationError as error:
                log.event("certificate-refused", reason=str(error))
                self.close()
                raise

    context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
    context.sslsocket_class = Socket
    return context


def check_ends(chain: Iterable[Mapping[str, Any]], earliest: float) -> None:
    """Raise ssl.SSLCertVerificationError if a certificate had ended at `earliest`."""
    for certificate in chain:
        end = str(certificate["notAfter"])
        if ssl.cert_time_to_seconds(end) < earliest:
            now = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(earliest))
            raise ssl.SSLCertVerificationError(
                f"certificate verify failed: one of the chain ended {end}, and it is {now} at least"
            )


def _verified_chain(connection: ssl.SSLSocket) -> list[Mapping[str, Any]]:
    """Return the facts of the peer's chain, the root's too.

    Python tells them only since 3.13, and there as DER; underneath, it has had them since 3.10.
    """
    inner: Any = connection._sslobj  # type: ignore[attr-defined] # noqa: SLF001
    return [certificate.get_info() for certificate in inner.get_verified_chain()]
