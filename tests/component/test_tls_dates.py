"""Certificate dates against proved time, over real TLS: what OpenSSL would do with a wrong clock.

The certificates are moved instead of the clock: to a device whose clock is late the present is the
future, to one whose clock is far ahead it is long over.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from agent import identity as identities
from agent import tls
from agent.clock import Clock
from agent.config import Config
from agent.connection import Connection
from agent.identity import Broker, Identity
from support import programs

DAY_S = 86400.0


class Life(NamedTuple):
    """From when to when a certificate is good, in days from now."""

    begins: float
    ends: float


class Member(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


GOOD = Life(-400, 400)


def _issue(name: str, life: Life, issuer: Member | None, *, is_authority: bool) -> Member:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = time.time()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now + life.begins * DAY_S, UTC))
        .not_valid_after(datetime.fromtimestamp(now + life.ends * DAY_S, UTC))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    signer = issuer.key if issuer else key
    builder = builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
    )
    if is_authority:
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
            key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        builder = builder.add_extension(names, critical=False)
    return Member(builder.sign(signer, hashes.SHA256()), key)


@contextmanager
def serving(
    folder: Path, root: Life = GOOD, between: Life = GOOD, leaf: Life = GOOD
) -> Iterator[str]:
    """An HTTPS server whose chain has these lives; its root is in `folder`/ca.pem."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certify(folder, root, between, leaf))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_answer, args=(listener, context), daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def certify(folder: Path, root: Life, between: Life, leaf: Life) -> Path:
    """Write ca.pem, and return the file with a server's key and chain."""
    authority = _issue("root", root, None, is_authority=True)
    issuing = _issue("issuing", between, authority, is_authority=True)
    server = _issue("server", leaf, issuing, is_authority=False)
    (folder / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    pair = folder / "server.pem"
    pair.write_bytes(
        server.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + server.certificate.public_bytes(Encoding.PEM)
        + issuing.certificate.public_bytes(Encoding.PEM)
    )
    return pair


def _answer(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain:
            plain.settimeout(10)
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                continue


def fetch(folder: Path, url: str, earliest_days: float | None) -> str:
    """Ask over TLS; `earliest_days` from now is certainly past, None means OpenSSL judges."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if earliest_days is not None:
        earliest = time.time() + earliest_days * DAY_S
        tls.hold_against(context, lambda: earliest)
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.get(url).text


LATE = Life(365, 765)  # the clock shows a year too little
AHEAD = Life(-765, -365)  # it shows a year too much
ALL = ("root", "between", "leaf")


@pytest.mark.parametrize(("life", "earliest"), [(LATE, 0.0), (LATE, 400.0), (AHEAD, -400.0)])
def test_a_wrong_clock_ends_no_tls(tmp_path: Path, life: Life, earliest: float) -> None:
    """OpenSSL alone would refuse; what is proved decides, for every certificate of the chain."""
    with serving(tmp_path, life, life, life) as url:
        with pytest.raises(httpx.ConnectError):
            fetch(tmp_path, url, None)
        assert fetch(tmp_path, url, earliest) == "ok"


@pytest.mark.parametrize("ended", ALL)
def test_a_certificate_that_certainly_ended_is_refused(tmp_path: Path, ended: str) -> None:
    """Wherever it stands in the chain."""
    with serving(tmp_path, **{ended: Life(-30, -1)}) as url:
        with pytest.raises(httpx.ConnectError, match="ended"):
            fetch(tmp_path, url, -0.5)
        assert fetch(tmp_path, url, -2) == "ok"


def test_all_but_the_dates_is_checked_as_ever(tmp_path: Path) -> None:
    """Another authority and another name are refused, whatever the clock."""
    (tmp_path / "other").mkdir()
    with serving(tmp_path) as url, serving(tmp_path / "other"):
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            fetch(tmp_path / "other", url, 0)
        with pytest.raises(httpx.ConnectError, match="not valid for"):
            fetch(tmp_path, url.replace("127.0.0.1", "localhost"), 0)


@pytest.mark.needs("mosquitto")
@pytest.mark.parametrize(
    ("life", "floor_days", "is_taken"),
    [(LATE, 0.0, True), (AHEAD, -400.0, True), (AHEAD, 0.0, False)],
)
def test_the_session_with_the_broker_follows_the_same_rule(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    life: Life,
    floor_days: float,
    *,
    is_taken: bool,
) -> None:
    """A device with a wrong clock reaches the broker, and from there learns the time."""
    monkeypatch.setattr("agent.clock.BUILD_TIME", 0.0)
    pair = certify(tmp_path, life, life, life)
    for name in (identities.CERTIFICATE, identities.KEY):
        (tmp_path / name).write_bytes(pair.read_bytes())
    clock = Clock(time.time() + floor_days * DAY_S)
    config = Config(state_dir=tmp_path, run_dir=tmp_path, reconnect_s_min=0.05, reconnect_s_max=0.1)

    async def run(port: int) -> bool:
        changes: list[bool] = []
        broker = Broker("127.0.0.1", port, is_tls=True)
        connection = Connection(
            Identity(tmp_path, "dev-1", "", broker, b"", b""),
            config,
            clock=clock,
            on_message=lambda _: None,
            on_change=changes.append,
        )
        connection.start()
        async with asyncio.timeout(30):
            while not changes and "certificate-refused" not in capsys.readouterr().err:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await connection.stop()
        return changes == [True]

    with broker_with(tmp_path, pair) as port:
        assert asyncio.run(run(port)) is is_taken


@contextmanager
def broker_with(folder: Path, pair: Path) -> Iterator[int]:
    """A mosquitto that shows these certificates; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    settings = folder / "mosquitto.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser root\n"
        f"certfile {pair}\nkeyfile {pair}\n"
    )
    program = programs.find("mosquitto")
    assert program is not None
    with subprocess.Popen([program, "-c", str(settings)], stderr=subprocess.DEVNULL) as broker:
        try:
            yield port
        finally:
            broker.terminate()
