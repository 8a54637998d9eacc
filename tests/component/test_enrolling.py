"""The enrol command against a real HTTPS server: what is kept, and what leaves all as it was."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent import cli, identity
from agent.store.state import State
from control_plane.fleet.authority import Authority
from control_plane.fleet.certificates import key_of, parse_request
from firmware_bundles.trust.floors import Mark
from firmware_bundles.wire.enrolment import Enrolment, EnrolmentRequest
from support.owners import Owners

Answer = Callable[[EnrolmentRequest], tuple[int, bytes]]


class Server:
    """An enrolment server whose answer a test may replace."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.authority = Authority.load_or_create(folder, clock)
        self.ca = folder / "root.pem"
        self.requests: list[EnrolmentRequest] = []
        self.root = b'{"root":1}'
        self.former_roots: tuple[bytes, ...] = ()
        self.answer: Answer = self.enrolled
        pair = self.authority.issue_server(["127.0.0.1"])
        (folder / "server.pem").write_bytes(pair.certificate + pair.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem")
        self._server = HTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def enrolled(self, request: EnrolmentRequest) -> tuple[int, bytes]:
        """The name that was wished for, or d1."""
        return 200, self.enrolment(
            key_of(parse_request(request.csr.encode())), request.device or "d1"
        )

    def enrolment(self, key: ec.EllipticCurvePublicKey, device: str) -> bytes:
        """What the server sends for a key."""
        return msgspec.json.encode(
            Enrolment(
                device=device,
                certificate=self.authority.issue_device(device, key).certificate_pem,
                ca=self.authority.certificate_pem.decode(),
                root=self.root,
                broker="mqtts://127.0.0.1:8883",
                telemetry_secret=b"s" * 32,
                former_roots=self.former_roots,
            )
        )

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = msgspec.json.decode(body, type=EnrolmentRequest)
            server.requests.append(request)
            status, data = server.answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            return

    return Handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own."""
    server = Server(tmp_path / "server")
    yield server
    server.close()


def enrol(server: Server, state_dir: Path, *more: str) -> int:
    """Run the command."""
    base = ["--state-dir", str(state_dir), "enrol", "--server", server.url, "--token", "t"]
    return cli.main([*base, "--ca", str(server.ca), *more])


def contents(state_dir: Path) -> dict[str, bytes]:
    """All files of the identity."""
    return {file.name: file.read_bytes() for file in (state_dir / "identity").iterdir()}


def test_an_enrolled_device_has_its_identity_and_a_state(server: Server, tmp_path: Path) -> None:
    """Key and secret are its owner's alone; the request carried the token and the inventory."""
    state_dir = tmp_path / "device"
    assert enrol(server, state_dir, "--device", "press-1") == cli.DONE
    found = identity.load(state_dir)
    assert (found.device, found.broker) == ("press-1", identity.Broker("127.0.0.1", 8883, True))
    assert (found.root, found.telemetry_secret) == (server.root, b"s" * 32)
    for name, mode in identity.MODES.items():
        assert (state_dir / "identity" / name).stat().st_mode & 0o777 == mode
    state = State.open(state_dir / "state.db")
    assert not state.is_damaged()
    state.close()
    assert server.requests[0].token == "t"
    assert "arch" in server.requests[0].inventory


def test_a_clock_that_is_late_does_not_keep_a_device_out(tmp_path: Path) -> None:
    """To it, all certificates of the server lie in the future."""
    (tmp_path / "ca").mkdir()
    server = Server(tmp_path / "ca", lambda: time.time() + 365 * 86_400)
    try:
        assert enrol(server, tmp_path / "device") == cli.DONE
        assert identity.load(tmp_path / "device").device == "d1"
    finally:
        server.close()


def test_enrolling_again_keeps_the_key_and_takes_the_damage_back(
    server: Server, tmp_path: Path
) -> None:
    """The way out of a lost state."""
    enrol(server, tmp_path)
    before = contents(tmp_path)
    state = State.open(tmp_path / "state.db")
    state.mark_damaged(is_damaged=True)
    state.raise_floors({"root": Mark(version=1)})
    state.close()
    assert enrol(server, tmp_path) == cli.DONE
    assert contents(tmp_path)[identity.KEY] == before[identity.KEY]
    state = State.open(tmp_path / "state.db")
    assert not state.is_damaged()
    assert state.floors() == {"root": Mark(version=1)}
    state.close()


def test_a_rotated_root_keeps_floors_and_generations(server: Server, tmp_path: Path) -> None:
    """Signatures lead from the root that the device knows to the one that it is given, or back."""
    owners = Owners()
    owners.rotate("root-1", "root-2")
    owners.rotate("root-3", "snapshot")
    former, between, last = owners.roots
    server.root = former
    enrol(server, tmp_path)
    state = State.open(tmp_path / "state.db")
    state.raise_floors({"root": Mark(version=9)})
    state.close()
    (tmp_path / "trust").mkdir()

    def kept() -> bytes:
        assert enrol(server, tmp_path) == cli.DONE
        state = State.open(tmp_path / "state.db")
        assert state.floors() == {"root": Mark(version=9)}
        state.close()
        assert (tmp_path / "trust").exists()
        return contents(tmp_path)[identity.ROOT]

    server.root, server.former_roots = last, (former, between)
    assert kept() == last
    server.root, server.former_roots = between, (former,)  # restored from a backup
    assert kept() == last


def test_a_device_that_was_led_astray_begins_anew(server: Server, tmp_path: Path) -> None:
    """Who stole root keys and was first may have raised every floor."""
    owners, thief = Owners(), Owners()
    thief.rotate("root-1", "root-2", "root-3")
    owners.rotate("root-2", "snapshot")
    assert thief.root == owners.root
    server.root = owners.root
    enrol(server, tmp_path)
    state = State.open(tmp_path / "state.db")
    state.raise_floors({"root": Mark(version=2)})
    state.close()
    history = tmp_path / "trust" / "root_history"
    history.mkdir(parents=True)
    (history / "2.root.json").write_bytes(thief.roots[1])
    server.root, server.former_roots = owners.roots[1], (owners.root,)
    assert enrol(server, tmp_path) == cli.DONE
    state = State.open(tmp_path / "state.db")
    assert state.floors() == {}
    state.close()
    assert not history.exists()


@pytest.mark.parametrize("claimed", ["signed by others", "a gap", "garbage"])
def test_a_root_to_which_no_signatures_lead_is_another_fleets(
    server: Server, tmp_path: Path, claimed: str
) -> None:
    """A number and a claim are not enough."""
    owners, stranger = Owners(), Owners(seed=5000)
    for each in (owners, stranger):
        each.rotate("root-1", "root-2")
        each.rotate("root-1", "root-2", "root-3")
    between = {"signed by others": stranger.roots[1], "a gap": b"", "garbage": b"{"}[claimed]
    server.root = owners.root
    enrol(server, tmp_path)
    state = State.open(tmp_path / "state.db")
    state.raise_floors({"root": Mark(version=9)})
    state.close()
    server.root = stranger.roots[2] if claimed == "signed by others" else owners.roots[2]
    server.former_roots = (owners.root, between)
    assert enrol(server, tmp_path) == cli.DONE
    state = State.open(tmp_path / "state.db")
    assert state.floors() == {}
    state.close()


def test_another_root_of_trust_begins_anew(server: Server, tmp_path: Path) -> None:
    """Versions and generations of another fleet mean nothing here."""
    enrol(server, tmp_path)
    state = State.open(tmp_path / "state.db")
    state.raise_floors({"root": Mark(version=9)})
    state.close()
    (tmp_path / "trust").mkdir()
    server.root = b'{"root":"another"}'
    assert enrol(server, tmp_path) == cli.DONE
    state = State.open(tmp_path / "state.db")
    assert state.floors() == {}
    state.close()
    assert not (tmp_path / "trust").exists()


REFUSAL = b'{"code":"access.enrolment_refused","detail":"the token is used up","status":403}'


@pytest.mark.parametrize(
    ("status", "body", "exit_status", "said"),
    [
        (403, REFUSAL, cli.UNAUTHORISED, "the token is used up"),
        (404, b"<html>", cli.UNAUTHORISED, "status 404"),
        (503, REFUSAL, cli.LATER, "status 503"),
        (200, b"{}", cli.FAILED, "something else than an enrolment"),
        (200, b" " * 2**21, cli.FAILED, "more than 1048576 bytes"),
    ],
)
def test_a_refusal_leaves_the_old_identity_whole(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    status: int,
    body: bytes,
    exit_status: int,
    said: str,
) -> None:
    """One clear line, and nothing changed."""
    enrol(server, tmp_path)
    before = contents(tmp_path)
    server.answer = lambda _request: (status, body)
    assert enrol(server, tmp_path) == exit_status
    assert said in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_a_certificate_for_another_key_is_refused(server: Server, tmp_path: Path) -> None:
    """It could not be used, and says that something is very wrong."""
    foreign = ec.generate_private_key(ec.SECP256R1()).public_key()
    server.answer = lambda _request: (200, server.enrolment(foreign, "d1"))
    assert enrol(server, tmp_path) == cli.FAILED
    assert not (tmp_path / "identity" / identity.FACTS).exists()


def test_a_server_of_another_authority_is_not_spoken_to(server: Server, tmp_path: Path) -> None:
    """The token never leaves for a stranger."""
    Authority.load_or_create(tmp_path / "other", time.time)
    base = ["--state-dir", str(tmp_path), "enrol", "--server", server.url, "--token", "t"]
    assert cli.main([*base, "--ca", str(tmp_path / "other" / "root.pem")]) == cli.LATER
    assert server.requests == []
