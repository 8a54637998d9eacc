"""Becoming a member of the fleet: a key made here, a signing request, the answer kept on disk.

Runs in the `enrol` command's own process; heavy, and never imported by the core. Safe to repeat:
the old identity stays whole until the new one is complete, and the key is kept.
"""

from __future__ import annotations

import shutil
import ssl
from typing import TYPE_CHECKING, Final

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent import identity as identities
from agent import inventory, tls
from agent.clock import Clock
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
_ANSWER_BYTES_MAX: Final = 1024 * 1024
_TIMEOUT_S: Final = 30.0


def enrol(
    state_dir: Path,
    *,
    server: str,
    token: str,
    ca: Path,
    device: str | None,
    wants_new_key: bool = False,
) -> str:
    """Enrol this device and return the name that the server gave it.

    With `wants_new_key` under another key than before, kept when the server has taken it.

    Raises InputError, ServerUnreachable, EnrolmentRefused, Malformed, SlotUnwritable.
    """
    if not server.startswith("https://"):
        raise InputError(f"the server {server!r:.120} must be an https:// address")
    if not all(text.isprintable() for text in (token, device or "")):
        raise InputError("the token or the device's name has characters that cannot be printed")
    directory = state_dir / identities.FOLDER
    try:
        durable.make_directory(directory, mode=0o700)
        path = directory / identities.KEY
        key = ec.generate_private_key(ec.SECP256R1()) if wants_new_key else _key(path)
        request = EnrolmentRequest(
            token=token,
            csr=signing_request(key).public_bytes(serialization.Encoding.PEM).decode(),
            device=device,
            agent_version=inventory.agent_version(),
            inventory=inventory.facts(),
        )
        answer = _ask(server, request, ca)
        _check_certificate(answer, key)
        is_other_fleet = _is_other_root(directory / identities.ROOT, answer.root)
        if wants_new_key:
            _keep_key(path, key)
        _keep(directory, server, answer)
        _prepare(state_dir, is_other_fleet=is_other_fleet)
    except OSError as error:
        raise SlotUnwritable(
            f"the identity cannot be written to {directory}: {error.strerror}",
            hint="Run as the user that owns the state directory, or give another --state-dir.",
        ) from error
    return answer.device


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the device's key, made on its first use; it never leaves this device."""
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except ValueError as error:
            raise StateDamaged(
                f"{path} is no private key", hint="Remove it, and enrol again."
            ) from error
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key
        raise StateDamaged(f"{path} is no P-256 key", hint="Remove it, and enrol again.")
    key = ec.generate_private_key(ec.SECP256R1())
    _keep_key(path, key)
    return key


def _keep_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    durable.write(path, pem, mode=identities.MODES[identities.KEY])


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
        with httpx.Client(verify=trusted, timeout=_TIMEOUT_S, trust_env=False) as client:
            response = client.post(
                server.rstrip("/") + PATH,
                content=msgspec.json.encode(request),
                headers={"Content-Type": "application/json"},
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServerUnreachable(
            f"{server} did not answer: {error}",
            hint="Check the address, that --ca is the certificate of its authority, and the clock.",
        ) from error
    if response.is_server_error:
        raise ServerUnreachable(f"{server} answered with status {response.status_code}")
    if not response.is_success:
        raise refusal(response)
    if len(response.content) > _ANSWER_BYTES_MAX:
        raise Malformed(f"{server} answered {len(response.content)} bytes, too many")
    try:
        return msgspec.json.decode(response.content, type=Enrolment)
    except msgspec.DecodeError as error:
        raise Malformed(f"{server} answered something else than an enrolment: {error}") from error


class _Problem(msgspec.Struct):
    """What is read of an application/problem+json body (RFC 9457)."""

    code: str
    detail: str = ""
    message: str = ""
    hint: str = ""


def refusal(response: httpx.Response) -> ShoalError:
    """Return the error that the server meant by an answer of 3xx or 4xx."""
    try:
        problem = msgspec.json.decode(response.content[:_ANSWER_BYTES_MAX], type=_Problem)
    except msgspec.DecodeError:
        return EnrolmentRefused(f"the server answered with status {response.status_code}")
    message = problem.message or problem.detail or "the server refused"
    return from_code(problem.code, message, problem.hint)


def _check_certificate(answer: Enrolment, key: ec.EllipticCurvePrivateKey) -> None:
    """Refuse a certificate that is not for this key and name, before anything is replaced."""
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
    except ValueError as error:
        raise Malformed(f"the server sent no certificate: {error}") from error
    names = [each.value for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if certificate.public_key() != key.public_key() or names != [answer.device]:
        raise Malformed("the server sent a certificate of another device")
    identities.parse_broker(answer.broker)


def _keep(directory: Path, server: str, answer: Enrolment) -> None:
    """Write the identity; agent.json comes last, and only with it the device is enrolled."""
    facts = identities.Facts(device=answer.device, server=server, broker=answer.broker)
    contents = {
        identities.CERTIFICATE: answer.certificate.encode(),
        identities.CA: answer.ca.encode(),
        identities.ROOT: answer.root,
        identities.SECRET: answer.telemetry_secret,
        identities.FACTS: msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n",
    }
    for name, data in contents.items():
        durable.write(directory / name, data, mode=identities.MODES[name])


def _is_other_root(path: Path, root: bytes) -> bool:
    return path.exists() and path.read_bytes() != root


def _prepare(state_dir: Path, *, is_other_fleet: bool) -> None:
    """Make the state database, or take the mark of a lost one away: the device is known again.

    Under another root nothing that was verified or numbered before counts; the models stay.
    """
    path = state_dir / STATE_NAME
    if is_other_fleet:
        shutil.rmtree(state_dir / "trust", ignore_errors=True)
        damage.set_aside(path, "replaced")
    try:
        state = State.open(path)
    except StateDamaged:
        damage.set_aside(path, "replaced")
        state_schema.prepare(path)
        state = State.open(path)
    if state.is_damaged():
        state.mark_damaged(is_damaged=False)
    state.close()
