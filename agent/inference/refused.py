"""A request that cannot be answered: the HTTP status, and a sentence for whoever sent it."""

from __future__ import annotations


class Refused(Exception):
    """The status and the sentence why; `headers` are whole lines that belong to the status."""

    def __init__(self, status: int, message: str, headers: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


def retry_later(status: int, message: str, seconds: int = 1) -> Refused:
    """Return a refusal that may be none `seconds` later (RFC 9110, section 10.2.3)."""
    return Refused(status, message, b"retry-after: %d\r\n" % seconds)
