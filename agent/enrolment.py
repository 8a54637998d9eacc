"""Becoming a member of the fleet: a key made here, a signing request, the answer kept on disk.

Runs in the `enrol` command's own process; heavy, and never imported by the core. Safe to repeat:
the old identity counts until the new one is complete and takes its place, and the key is kept.
"""

from __future__ import annotations

import shutil
import ssl
from typing import TYPE_CHECKING, Final

import httpx
import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent import anchor, inventory, tls, web_bodies
from agent import identity as identities
from agent.clock import Clock
from agent.deployment import retirement
from agent.store import damage, state_schema
from agent.store.state import State
from firmware_bundles import durable
from firmware_bundles.errors import (
    EnrolmentRefused,
    InputError,
    Malformed,
    ServerUnreachable,
    ShoalError,
    SlotUnwritable,
    StateDamaged,
    from_code,
)
from firmware_bundles.wire.enrolment import PATH, Enrolment, EnrolmentRequest

if TYPE_CHECKING:
    from pathlib import Path

STATE_NAME: Final = "state.db"
# What the library raises for certificates and keys that cannot be read.
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)

_ANSWER_BYTES_MAX: Final = 1024 * 1024
_TIMEOUT_S: Final = 30.0
_KEY_MODE: Final = identities.MODES[identities.KEY]
_KEY_HINT: Final = "Enrol with another one: shoal-agent enrol --new-key."


def enrol(
    state_dir: Path,
    *,
    server: str,
    token: str,
    ca: Path,
    device: str | None,
    wants_new_key: bool = False,
    key_file: Path | None = None,
) -> str:
    """Enrol this device and return the name that the server gave it.

    With `wants_new_key` under another key than before. With `key_file` the key is that file's,
    made there if there is none, and no copy of it is kept.

    Raises InputError, ServerUnreachable, EnrolmentRefused, Malformed, SlotUnwritable.
    """
    if not server.startswith("https://"):
        raise InputError(f"the server {server!r:.120} must be an https:// address")
    if not all(text.isprintable() for text in (token, device or "")):
        raise InputError("the token or the device's name has characters that cannot be printed")
    present = identities.folder(state_dir)
    try:
        staged = identities.stage(state_dir)
        key = _key(present, staged, key_file, wants_new_key=wants_new_key)
        request = EnrolmentRequest(
            token=token,
            csr=signing_request(key).public_bytes(serialization.Encoding.PEM).decode(),
            device=device,
            agent_version=inventory.agent_version(),
            inventory=inventory.facts(state_dir),
        )
        answer = _ask(server, request, ca)
        check_certificate(answer, key)
        known = anchor.known_roots(state_dir, present / identities.ROOT)
        settled = anchor.choose(known, answer.root, answer.former_roots)
        _keep(staged, server, answer, settled.root)
        _prepare(state_dir, is_other_fleet=settled.is_other_fleet)
        identities.publish(state_dir)
    except OSError as error:
        raise SlotUnwritable(
            f"the identity cannot be written to {state_dir}: {error.strerror}",
            hint="Run as the user that owns the state directory, or give another --state-dir.",
        ) from error
    return answer.device


def _key(
    present: Path, staged: Path, key_file: Path | None, *, wants_new_key: bool
) -> ec.EllipticCurvePrivateKey:
    """Return the device's key, made on its first use; it never leaves this device.

    It is on disk before the server hears of it. Raises InputError, StateDamaged, OSError.
    """
    path = staged / identities.KEY
    if key_file is not None:
        path.unlink(missing_ok=True)
        if key_file.exists() and wants_new_key:
            raise InputError(
                f"{key_file} holds a key already",
                hint="Name a file that is not there yet: the new key is made in it.",
            )
        return _load(key_file) if key_file.exists() else _make(key_file)
    if wants_new_key:
        return _make(path)
    if (present / identities.KEY).exists():
        durable.write(path, (present / identities.KEY).read_bytes(), mode=_KEY_MODE)
    return _load(path) if path.exists() else _make(path)


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    identities.check_private(path)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except UNREADABLE as error:
        raise StateDamaged(f"{path} is no private key", hint=_KEY_HINT) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StateDamaged(f"{path} is no P-256 key", hint=_KEY_HINT)
    return key


def _make(path: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable.write(path, pem, mode=_KEY_MODE)
    return key


def signing_request(
    key: ec.EllipticCurvePrivateKey, device: str = "device"
) -> x509.CertificateSigningRequest:
    """Return the CSR; at enrolment its name is a placeholder, for the server gives the name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    return x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())


def _ask(server: str, request: EnrolmentRequest, ca: Path) -> Enrolment:
    try:
        trusted = tls.hold_against(ssl.create_default_context(cafile=ca), Clock().now)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"--ca {ca} holds no readable certificate: {error}") from error
    try:
        with (
            httpx.Client(verify=trusted, timeout=_TIMEOUT_S, trust_env=False) as client,
            client.stream(
                "POST",
                server.rstrip("/") + PATH,
                content=msgspec.json.encode(request),
                headers={"Content-Type": "application/json", **web_bodies.AS_IT_IS},
            ) as response,
        ):
            body = web_bodies.read(response, _ANSWER_BYTES_MAX, _TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerUnreachable(
            f"{server} did not answer: {error}",
            hint="Check the address, that --ca is the certificate of its authority, and the clock.",
        ) from error
    if response.is_server_error:
        raise ServerUnreachable(f"{server} answered with status {response.status_code}")
    if not response.is_success:
        raise refusal(response.status_code, body)
    return parse_answer(body)


def parse_answer(body: bytes) -> Enrolment:
    """Read the answer to a request for enrolment. Raises Malformed."""
    if len(body) > _ANSWER_BYTES_MAX:
        raise Malformed(f"the server answered more than {_ANSWER_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=Enrolment)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the server answered something else than an enrolment: {error}") from error


class _Problem(msgspec.Struct):
    """What is read of an application/problem+json body (RFC 9457)."""

    code: str
    detail: str = ""
    message: str = ""
    hint: str = ""


def refusal(status: int, body: bytes) -> ShoalError:
    """Return the error that the server meant by an answer of 3xx or 4xx."""
    try:
        problem = msgspec.json.decode(body[:_ANSWER_BYTES_MAX], type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return EnrolmentRefused(f"the server answered with status {status}")
    message = problem.message or problem.detail or "the server refused"
    return from_code(problem.code, message, problem.hint)


def check_certificate(answer: Enrolment, key: ec.EllipticCurvePrivateKey) -> None:
    """Refuse a certificate that is not for this key and name, before anything is replaced."""
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        is_own = is_for(certificate, answer.device, key)
    except UNREADABLE as error:
        raise Malformed(f"the server sent no certificate: {error}") from error
    if not is_own:
        raise Malformed("the server sent a certificate of another device")
    identities.parse_broker(answer.broker)


def is_for(certificate: x509.Certificate, device: str, key: ec.EllipticCurvePrivateKey) -> bool:
    """Whether a certificate is for this name and key.

    Raises what UNREADABLE holds: a name and a key are read only here.
    """
    names = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return names == [device] and certificate.public_key() == key.public_key()


def _keep(directory: Path, server: str, answer: Enrolment, root: bytes) -> None:
    """Write the identity, all but the key, into the folder that is about to count."""
    facts = identities.Facts(device=answer.device, server=server, broker=answer.broker)
    contents = {
        identities.CERTIFICATE: answer.certificate.encode(),
        identities.CA: answer.ca.encode(),
        identities.ROOT: root,
        identities.SECRET: answer.telemetry_secret,
        identities.FACTS: msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n",
    }
    for name, data in contents.items():
        durable.write(directory / name, data, mode=identities.MODES[name])


def _prepare(state_dir: Path, *, is_other_fleet: bool) -> None:
    """Make the state database, or take the mark of a lost one away: the device is known again.

    In another fleet nothing that was verified or numbered before counts; the models stay.
    """
    path = state_dir / STATE_NAME
    if is_other_fleet:
        shutil.rmtree(state_dir / anchor.TRUST_FOLDER, ignore_errors=True)
        damage.set_aside(path, "replaced")
    try:
        state = State.open(path)
    except StateDamaged:
        damage.set_aside(path, "replaced")
        state_schema.prepare(path)
        state = State.open(path)
    if state.is_damaged():
        state.mark_damaged(is_damaged=False)
    state.save_retirement(retirement.ended(state.retirement()))
    state.close()
