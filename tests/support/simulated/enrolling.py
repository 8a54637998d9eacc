"""Enrolment as devices do it: a key of its own, a signing request, HTTPS, the answer checked."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner

from agent import enrolment, inventory
from agent.identity import Broker, parse_broker
from firmware_bundles.trust import envelopes
from firmware_bundles.wire.enrolment import PATH, EnrolmentRequest

_AT_ONCE = 4
_TIMEOUT_S = 60.0
_PKCS8 = serialization.PrivateFormat.PKCS8


class Member(NamedTuple):
    """An enrolled device, and how it speaks TLS."""

    device: str
    broker: Broker
    root: bytes
    secret: bytes
    tls: ssl.SSLContext
    signer: CryptoSigner


async def enrol(server: str, token: str, ca: Path, folder: Path, count: int) -> list[Member]:
    """Enrol `count` devices with one token; keys and certificates go below `folder`."""
    trusted = ssl.create_default_context(cafile=ca)
    turn = asyncio.Semaphore(_AT_ONCE)
    async with httpx.AsyncClient(verify=trusted, timeout=_TIMEOUT_S, trust_env=False) as client:

        async def one(number: int) -> Member:
            async with turn:
                return await _enrol(client, server, token, folder / f"{number:05}")

        return list(await asyncio.gather(*(one(number) for number in range(count))))


async def _enrol(client: httpx.AsyncClient, server: str, token: str, folder: Path) -> Member:
    key = ec.generate_private_key(ec.SECP256R1())
    request = EnrolmentRequest(
        token=token,
        csr=enrolment.signing_request(key).public_bytes(serialization.Encoding.PEM).decode(),
        agent_version=inventory.agent_version(),
        inventory=inventory.facts(),
    )
    body, headers = msgspec.json.encode(request), {"Content-Type": "application/json"}
    response = await client.post(server + PATH, content=body, headers=headers)
    if not response.is_success:
        raise enrolment.refusal(response.status_code, response.content)
    answer = enrolment.parse_answer(response.content)
    enrolment.check_certificate(answer, key)
    pem = key.private_bytes(serialization.Encoding.PEM, _PKCS8, serialization.NoEncryption())
    _keep(folder, pem, answer.certificate, response.content)
    return load(folder)


def _keep(folder: Path, key: bytes, certificate: str, answer: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "device.key").write_bytes(key)
    (folder / "device.crt").write_text(certificate)
    (folder / "answer.json").write_bytes(answer)


def load(folder: Path) -> Member:
    """Return the member that was enrolled in a folder."""
    answer = enrolment.parse_answer((folder / "answer.json").read_bytes())
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=answer.ca)
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return Member(
        device=answer.device,
        broker=parse_broker(answer.broker),
        root=answer.root,
        secret=answer.telemetry_secret,
        tls=context,
        signer=envelopes.device_signer(answer.device, (folder / "device.key").read_bytes()),
    )
