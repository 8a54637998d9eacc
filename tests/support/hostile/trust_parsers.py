"""The table of parsers: the models repository, keys and certificates.

A role is fuzzed twice: damaged after it was signed, and signed by its own, stolen key over damaged
content.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs7,
)
from cryptography.x509.oid import NameOID
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp

from agent import enrolment, reenrolment
from control_plane.api import est
from control_plane.fleet import certificates
from firmware_bundles.errors import NotFound
from firmware_bundles.trust import client, keys, publisher, roles, verifier
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire.enrolment import Enrolment
from support.hostile.inputs import Form
from support.hostile.parser import Parser, in_folder
from support.hostile.wire_parsers import owners
from support.owners import NOW

ROLES: Final = ("root", "targets", "digits", "snapshot", "timestamp")


@cache
def _repository() -> Mapping[str, bytes]:
    return owners().seal()


def _file_of(role: str) -> str:
    return next(name for name in _repository() if name.endswith(f"{role}.json"))


def _seed(role: str) -> bytes:
    if role == "root":  # the second root is what a device is offered
        root = json.loads(owners().root)
        root["signed"]["version"] = 2
        return _signed_by(json.dumps(root["signed"]).encode(), _signers("root"))
    return _repository()[_file_of(role)]


def _signers(role: str) -> list[Signer]:
    names = ("root-1", "root-2", "root-3") if role == "root" else (role,)
    return [owners().signers[name] for name in names]


def _signed_part(role: str) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(_seed(role))["signed"])


def _signed_by(content: bytes, signers: list[Signer]) -> bytes:
    """Return content as a role's file, signed where it can be read, as TUF signs it."""
    signatures: list[dict[str, str]] = []
    with contextlib.suppress(Exception):
        metadata: Metadata[Any] = Metadata.from_bytes(b'{"signatures":[],"signed":%s}' % content)
        for signer in signers:
            metadata.sign(signer, append=True)
        signatures = [each.to_dict() for each in metadata.signatures.values()]
    return b'{"signatures":%s,"signed":%s}' % (msgspec.json.encode(signatures), content)


def _refresh(folder: Path, files: Mapping[str, bytes]) -> object:
    repository = verifier.refresh(folder, owners().root, files, NOW)
    for fault in repository.faults.values():
        raise fault
    return repository


def _offered(role: str, data: bytes) -> dict[str, bytes]:
    """Return the repository in which `data` stands for a role, and those above it vouch for it."""
    files = dict(_repository())
    if role == "root":
        return {**files, "2.root.json": data}
    files[_file_of(role)] = data
    if role == "timestamp":
        return files
    snapshot = Metadata[Snapshot].from_bytes(_repository()[_file_of("snapshot")])
    if role != "snapshot":
        version = snapshot.signed.meta[f"{role}.json"].version
        snapshot.signed.meta[f"{role}.json"] = MetaFile.from_data(version, data, ["sha256"])
        snapshot.sign(owners().signers["snapshot"])
        files[_file_of("snapshot")] = snapshot.to_bytes()
    timestamp = Metadata[Timestamp].from_bytes(files["timestamp.json"])
    timestamp.signed.snapshot_meta = MetaFile.from_data(
        snapshot.signed.version, files[_file_of("snapshot")], ["sha256"]
    )
    timestamp.sign(owners().signers["timestamp"])
    files["timestamp.json"] = timestamp.to_bytes()
    return files


def _damaged(role: str) -> Parser:
    return Parser(
        name=f"file of the role {role}",
        parse=in_folder(lambda folder, data: _refresh(folder, _offered(role, data))),
        make_seeds=lambda: [_seed(role)],
        form=Form.JSON,
        cost=10,
    )


def _signed(role: str) -> Parser:
    return Parser(
        name=f"role {role}, signed by its key",
        parse=in_folder(
            lambda folder, data: _refresh(folder, _offered(role, _signed_by(data, _signers(role))))
        ),
        make_seeds=lambda: [_signed_part(role)],
        form=Form.JSON,
        cost=10,
    )


def _director_keys(folder: Path, data: bytes) -> object:
    """A list of keys that the owners signed."""
    role = publisher.create_targets(
        [owners().signers["targets"]],
        families={"digits": owners().signers["digits"].public_key},
        director_keys=data,
        now=NOW,
    )
    return _refresh(folder, {**_offered("targets", role), roles.DIRECTOR_KEYS_PATH: data})


def _client_init(folder: Path, data: bytes) -> object:
    return client.init(folder, data)


def _client_refresh(role: str) -> Callable[[Path, bytes], object]:
    def run(folder: Path, data: bytes) -> object:
        files = _offered(role, data)
        client.init(folder, owners().root)

        def fetch(url: str) -> list[bytes]:
            name = url.removeprefix("http://host/")
            if name not in files:
                raise NotFound(name)
            return [files[name]]

        return client.Client(folder, "http://host/", fetch).refresh()

    return run


def _again(folder: Path, data: bytes) -> object:
    """The same root again, where the trusted copy was damaged meanwhile."""
    client.init(folder, owners().root)
    (folder / "root.json").write_bytes(data)
    return client.init(folder, owners().root)


def _memory(folder: Path, data: bytes) -> object:
    client.init(folder, owners().root)
    (folder / "shoal-floors").write_bytes(data)
    return client.Client(folder, "http://host/", lambda _: ())


def _memory_seed() -> bytes:
    mark = Mark(version=1, keys=("a" * 64,))
    return msgspec.json.encode({"anchor": "a" * 64, "floors": {"root": mark}})


def _describe(data: bytes) -> object:
    return publisher.describe(data), publisher.root_keys(data)


def _family(data: bytes) -> object:
    return publisher.describe(data), publisher.releases_in(data)


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(12345, ec.SECP256R1())


def _request(encoding: Encoding) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-1")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    return request.sign(_key(), hashes.SHA256()).public_bytes(encoding)


def _parse_request(data: bytes) -> object:
    return certificates.common_name(certificates.parse_request(data))


def _parse_est(data: bytes) -> object:
    return _parse_request(est.decode(data))


@cache
def _certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dev-1")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(_key().public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
        .sign(_key(), hashes.SHA256())
    )


def _certificate_der() -> bytes:
    return _certificate().public_bytes(Encoding.DER)


def _certificates_der() -> bytes:
    return pkcs7.serialize_certificates([_certificate()], Encoding.DER)


def _request_der() -> bytes:
    return _request(Encoding.DER)


def _key_der() -> bytes:
    return _key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _renewed(data: bytes) -> object:
    return reenrolment.own_certificate(reenrolment.parse_certificates(data), "dev-1", _key())


def _issued(data: bytes) -> object:
    answer = Enrolment(
        device="dev-1", certificate=data.decode("utf-8", "surrogateescape"), ca="", root=b"",
        broker="mqtts://host:1", telemetry_secret=b"",
    )  # fmt: skip
    enrolment.check_certificate(answer, _key())
    return answer


PARSERS: Final = (
    *(_damaged(role) for role in ROLES),
    *(_signed(role) for role in ROLES),
    Parser(
        name="director keys, signed by the owners",
        parse=in_folder(_director_keys),
        make_seeds=lambda: [owners().director_keys],
        form=Form.JSON,
        cost=10,
    ),
    Parser(
        name="root that support trusts",
        parse=in_folder(_client_init),
        make_seeds=lambda: [owners().root],
        form=Form.JSON,
        cost=3,
    ),
    *(
        Parser(
            name=f"{role} that support fetches",
            parse=in_folder(_client_refresh(role)),
            make_seeds=lambda role=role: [_seed(role)],  # type: ignore[misc]
            form=Form.JSON,
            cost=10,
        )
        for role in ("root", "timestamp")
    ),
    Parser(
        name="trusted copy of support",
        parse=in_folder(_again),
        make_seeds=lambda: [owners().root],
        form=Form.JSON,
        cost=10,
    ),
    Parser(
        name="floors of support",
        parse=in_folder(_memory),
        make_seeds=lambda: [_memory_seed()],
        form=Form.JSON,
        cost=4,
    ),
    Parser(
        name="root that is handed in",
        parse=_describe,
        make_seeds=lambda: [owners().root],
        form=Form.JSON,
    ),
    Parser(
        name="family role that is handed in",
        parse=_family,
        make_seeds=lambda: [owners().roles["digits"]],
        form=Form.JSON,
    ),
    Parser(
        name="targets role that is handed in",
        parse=publisher.family_keys,
        make_seeds=lambda: [owners().roles["targets"]],
        form=Form.JSON,
    ),
    Parser(
        name="list of public keys",
        parse=keys.parse_public_list,
        encode=keys.encode_public_list,
        make_seeds=lambda: [owners().director_keys],
        form=Form.JSON,
    ),
    Parser(
        name="private key",
        parse=lambda data: keys.decode_private(data, None, "the key"),
        make_seeds=lambda: [keys.encode_private(keys.generate(), None)],
    ),
    Parser(
        name="signing request, DER",
        parse=_parse_request,
        make_seeds=lambda: [_request_der()],
    ),
    Parser(
        name="signing request, PEM",
        parse=_parse_request,
        make_seeds=lambda: [_request(Encoding.PEM)],
    ),
    Parser(
        name="renewal body",
        parse=_parse_est,
        make_seeds=lambda: [base64.encodebytes(_request_der())],
    ),
    Parser(
        name="renewed certificates",
        parse=_renewed,
        make_seeds=lambda: [base64.encodebytes(_certificates_der())],
    ),
    Parser(
        name="renewed certificates, DER",
        parse=lambda data: _renewed(base64.encodebytes(data)),
        make_seeds=lambda: [_certificates_der()],
    ),
    Parser(
        name="issued certificate",
        parse=_issued,
        make_seeds=lambda: [_certificate().public_bytes(Encoding.PEM)],
    ),
    Parser(
        name="issued certificate, DER",
        parse=lambda data: _issued(
            b"-----BEGIN CERTIFICATE-----\n%s-----END CERTIFICATE-----\n" % base64.encodebytes(data)
        ),
        make_seeds=lambda: [_certificate_der()],
    ),
)
