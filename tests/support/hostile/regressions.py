"""Inputs that once got out of a parser as something else than a refusal, each by its name."""

from __future__ import annotations

import base64
import json
from typing import Final, NamedTuple

from support.hostile.bundle_parsers import _arrays
from support.hostile.trust_parsers import (
    _certificate_der,
    _certificates_der,
    _key_der,
    _request_der,
)
from support.hostile.wire_parsers import owners

_DEEP: Final = b"[" * 100_000
_SIGNED_DATA: Final = b"\x06\x09\x2a\x86\x48"
_CURVE: Final = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"


class Regression(NamedTuple):
    """A bad input, and the parser that has to refuse it."""

    name: str
    parser: str
    data: bytes


def _root_without_a_key() -> bytes:
    root = json.loads(owners().root)
    del root["signed"]["keys"][root["signed"]["roles"]["targets"]["keyids"][0]]
    return json.dumps(root).encode()


def _root_with_a_number_for_a_key() -> bytes:
    root = json.loads(owners().root)
    root["signed"]["roles"]["targets"]["keyids"] = [0]
    return json.dumps(root).encode()


def _targets_without_a_key() -> bytes:
    targets = json.loads(owners().roles["targets"])
    targets["signed"]["delegations"]["keys"] = {}
    return json.dumps(targets).encode()


def _targets_with_keys_by_name() -> bytes:
    targets = json.loads(owners().roles["targets"])
    targets["signed"]["delegations"]["roles"][0]["keyids"] = {"": ""}
    return json.dumps(targets).encode()


def _shortened() -> bytes:
    good = _arrays()
    return good[:4] + good[38:]


def _encrypted_archive() -> bytes:
    damaged = bytearray(_arrays())
    damaged[damaged.index(b"PK\x01\x02") + 8] |= 1  # the flags of the first entry
    return bytes(damaged)


def _array(header: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 32


def _pem(label: bytes, der: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s-----END %s-----\n" % (label, base64.encodebytes(der), label)


def _of_roles() -> list[Regression]:
    return [
        Regression(
            "root without a key of its own", "root that is handed in", _root_without_a_key()
        ),
        Regression(
            "root with a number for a key",
            "role root, signed by its key",
            _root_with_a_number_for_a_key(),
        ),
        Regression(
            "family with keys by name",
            "targets role that is handed in",
            _targets_with_keys_by_name(),
        ),
        Regression(
            "family without its key", "targets role that is handed in", _targets_without_a_key()
        ),
    ]


def all_of_them() -> list[Regression]:
    """Return them; some are made of good input."""
    off_curve = _certificate_der().replace(b"\x03\x42\x00\x04", b"\x03\x42\x00\x05", 1)
    return [
        Regression("file name with half a character", "name of a repository file", b"\xff"),
        Regression("empty record", "record of the journal", b""),
        *(
            Regression(f"deep unknown field of the {parser}", parser, head + _DEEP)
            for parser, head in {
                "deployment's record": b'{"surprise":',
                "identity": b'{"surprise":',
                "floors of support": b'{"surprise":',
                "enrolment answer": b'{"surprise":',
                "refusal of the server": b'{"surprise":',
                "worker's answer": b'{"type":"done","surprise":',
                "self-test's answer": b'{"type":"self_test","surprise":',
                "task's answer": b'{"type":"prepared","surprise":',
            }.items()
        ),
        Regression("half a character in a value", "rollout, JSON", b'{"family": "\\ud800"}'),
        Regression("half a character in a key", "rollout, YAML", b'"\\ud800": 1'),
        Regression("archive that begins before itself", "arrays of an owner", _shortened()),
        Regression("encrypted archive", "arrays of an owner", _encrypted_archive()),
        Regression(
            "NUL in an array's header",
            "array of an owner, zipped",
            _array(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,\0), }"),
        ),
        Regression(
            "array's header that does not end",
            "array of an owner, zipped",
            _array(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4,"),
        ),
        Regression(
            "PKCS #7 of another kind",
            "renewed certificates, DER",
            _certificates_der().replace(_SIGNED_DATA, b"\x06\x09\xaa\x86\x48", 1),
        ),
        Regression(
            "signing request of another version",
            "signing request, DER",
            _request_der().replace(b"\x02\x01\x00", b"\x02\x01\x01", 1),
        ),
        Regression("certificate with a broken key", "issued certificate, DER", off_curve),
        Regression(
            "certificate of an unknown curve",
            "issued certificate, DER",
            _certificate_der().replace(_CURVE, _CURVE[:-1] + b"\x7f", 1),
        ),
        Regression(
            "key of an unknown curve",
            "device's key",
            _pem(b"PRIVATE KEY", _key_der().replace(_CURVE, _CURVE[:-1] + b"\x7f", 1)),
        ),
        *_of_roles(),
    ]
