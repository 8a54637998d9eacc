"""What trust costs: a refresh that finds nothing new, an order for each device, an enrolment.

The refresh is the device's whole verification from collected files, in a warm process, with floors,
director keys and families; next to it python-tuf's own client over the same files. The order is an
assignment signed by the director; next to it the re-signing of targets, snapshot and timestamp that
a TUF director repository needs for each device. The enrolment goes over HTTPS to the real
application: a new connection, token, signing request, certificate, the database on disk.
"""

from __future__ import annotations

import os
import platform
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api import exceptions as tuf_errors
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from firmware_bundles.trust import publisher, verifier
from firmware_bundles.wire.enrolment import PATH, Enrolment, EnrolmentRequest
from support import benchmark, https, timing
from support.benchmark import Limit, Report
from support.control_planes import ControlPlane, signing_request
from support.owners import Owners

_ROUNDS = 30
_SIGNED_PER_ROUND = 20
_REFRESH_TIMES_MAX = 1.5
_SIGNING_TIMES_MAX = 0.5
_ENROLMENT_MS_MAX = 50.0
_FLEET = 10_000


class _Fetcher(FetcherInterface):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.removeprefix("memory:///")
        if name not in self._files:
            raise tuf_errors.DownloadHTTPError(name, 404)
        return iter((self._files[name],))


def _tuf_refresh(folder: Path, owners: Owners, files: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    updater = Updater(
        str(folder),
        "memory:///",
        fetcher=_Fetcher(files),
        config=UpdaterConfig(prefix_targets_with_hash=False),
        bootstrap=owners.root,
    )
    updater.refresh()
    for family in owners.families:
        updater.get_targetinfo(f"{family}/1/manifest.json")


def _resign(owners: Owners, number: int) -> None:
    """What a TUF director repository has to sign for one device."""
    targets = publisher.next_targets(
        owners.roles["targets"], [owners.signers["targets"]], now=owners.now
    )
    snapshot = publisher.create_snapshot(
        owners.signers["snapshot"], version=number, files={"targets": targets}, now=owners.now
    )
    publisher.create_timestamp(
        owners.signers["timestamp"], version=number, snapshot=snapshot, now=owners.now
    )


def _signing(folder: Path) -> dict[str, float]:
    """Refreshes, and signatures for each device, in milliseconds."""
    owners = Owners(families=("digits", "audio"), now=time.time())
    owners.publish("1")
    owners.publish("1", family="audio")
    files, order = owners.seal(), owners.order("1")

    def sign(_: int) -> None:
        for number in range(_SIGNED_PER_ROUND):
            owners.assignment(order, device=f"dev-{number}", nonce="0" * 32)

    def resign(_: int) -> None:
        for number in range(1, _SIGNED_PER_ROUND + 1):
            _resign(owners, number)

    calls = {
        "refresh": lambda _: verifier.refresh(folder / "ours", owners.root, files, owners.now),
        "python-tuf": lambda _: _tuf_refresh(folder / "theirs", owners, files),
        "sign": sign,
        "resign": resign,
    }
    found = timing.medians(timing.interleaved_ms(_ROUNDS, calls))
    for name in ("sign", "resign"):
        found[name] /= _SIGNED_PER_ROUND
    return found


def _enrolment(folder: Path) -> float:
    """The median of an enrolment over HTTPS in milliseconds; key and request are made before."""
    control_plane = ControlPlane(folder, now=time.time())
    requests = [_request(control_plane) for _ in range(_ROUNDS + 2)]
    try:
        with https.open_door(control_plane, folder / "door") as address:
            trusted = ssl.create_default_context(cafile=folder / "door" / "ca.pem")

            def enrol(number: int) -> None:
                with httpx.Client(verify=trusted, trust_env=False) as client:
                    answer = client.post(address + PATH, content=requests[number])
                assert answer.status_code == 200, answer.text
                msgspec.json.decode(answer.content, type=Enrolment)

            times = timing.interleaved_ms(_ROUNDS, {"enrolment": enrol})
    finally:
        control_plane.close()
    return timing.medians(times)["enrolment"]


def _request(control_plane: ControlPlane) -> bytes:
    csr = signing_request(ec.generate_private_key(ec.SECP256R1()))
    return msgspec.json.encode(EnrolmentRequest(token=control_plane.invite(), csr=csr))


def measure() -> Report:
    """Both parts, each in folders of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = _signing(folder)
        (folder / "control-plane").mkdir()
        enrolled = _enrolment(folder / "control-plane")
    return Report(
        limits=[
            Limit(
                what="unchanged refresh, times python-tuf's",
                value=found["refresh"] / found["python-tuf"],
                unit="x",
                limit=_REFRESH_TIMES_MAX,
            ),
            Limit(
                what="signing for a device, times a TUF director's",
                value=found["sign"] / found["resign"],
                unit="x",
                limit=_SIGNING_TIMES_MAX,
            ),
            Limit(what="enrolment over HTTPS", value=enrolled, unit="ms", limit=_ENROLMENT_MS_MAX),
        ],
        figures={
            "machine": platform.platform(),
            "processors": os.cpu_count(),
            "unchanged refresh, two families, ms": found["refresh"],
            "python-tuf's client, two families, ms": found["python-tuf"],
            "assignment signed, ms a device": found["sign"],
            "targets, snapshot and timestamp signed, ms a device": found["resign"],
            f"assignments for {_FLEET:,} devices, s": found["sign"] * _FLEET / 1000,
            "enrolments a second, one after the other": 1000 / enrolled,
        },
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("trust", measure))
