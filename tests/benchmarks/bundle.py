"""Build and sign, then verify, a bundle of 10 MiB, in a warm process, next to two peers.

Build reads model, golden vectors, labels and held-out rows from files, makes the baseline, cuts and
hashes, and writes the folder with fsync; sign adds the manifest to the family's role. Verify checks
the role's signature, the manifest against it, and every file, tensor and vector. No interpreter
runs: golden answers come from the owner. Everything lies in memory (/dev/shm), for a disk's moods
would drown the rest; the same with a disk is a figure.

The peers are processes, so their figures contain their start: mender-artifact writes and validates
a signed module image without compression, rauc makes a verity bundle with squashfs and checks its
signature; of the payload `rauc info` checks nothing.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

from firmware_bundles import build, chunks
from firmware_bundles.trust import publisher
from support import benchmark, peers, timing
from support.benchmark import Limit, Report
from support.bundles import SAMPLES
from support.owners import NOW, Owners

_MODEL_BYTES = 10 * 1024 * 1024
_ROUNDS = 15
_BUILD_MS_MAX = 50.0
_VERIFY_MS_MAX = 25.0
_SAMPLE = SAMPLES / "v1"

Calls = dict[str, Callable[[int], object]]


class _Ours:
    """One owner with a model of 10 MiB: a small one, and random bytes behind it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model
        self._owners = Owners()
        self.build(-1)

    def build(self, number: int) -> None:
        """Build and sign; what the round before left is gone by then."""
        out = self._folder / f"bundle-{number}"
        settings = build.Settings(
            family="digits",
            version="1",
            model=self._model,
            golden=_SAMPLE / "golden.npz",
            labels=_SAMPLE / "labels.txt",
            heldout=_SAMPLE / "heldout.npz",
        )
        bundle = build.build(settings, out)
        self.role = publisher.add_release(
            self._owners.roles["digits"],
            self._owners.signers["digits"],
            path="digits/1/manifest.json",
            manifest=bundle.manifest_bytes,
            now=NOW,
        )
        self.bundle = bundle

    def tidy(self, _: int) -> None:
        """Remove all bundles but the last; not timed as a part of anything."""
        for path in self._folder.glob("bundle-*"):
            if path != self.bundle.directory:
                shutil.rmtree(path)

    def verify(self, _: int) -> None:
        """Check the owners' signature, then the manifest under it, then the files."""
        key = self._owners.signers["digits"].public_key
        role = publisher._own_role(self.role, key)
        bundle = build.verify_bundle(self.bundle.directory)
        role.targets["digits/1/manifest.json"].verify_length_and_hashes(bundle.manifest_bytes)


def _mender(folder: Path, model: Path) -> Calls:
    program = peers.require("mender-artifact", "mender-artifact")
    key, public, out = folder / "key.pem", folder / "public.pem", folder / "out.mender"
    pair = ec.generate_private_key(ec.SECP256R1())
    sec1 = PrivateFormat.TraditionalOpenSSL  # it reads no other
    key.write_bytes(pair.private_bytes(Encoding.PEM, sec1, NoEncryption()))
    public.write_bytes(
        pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    write = (program, "write", "module-image", "--compression", "none", "-T", "shoal", "-t", "dev")
    return {
        "mender-artifact write": lambda _: peers.run(
            *write, "-n", "r1", "-f", model, "-k", key, "-o", out
        ),
        "mender-artifact validate": lambda _: peers.run(program, "validate", "-k", public, out),
    }


def _rauc(folder: Path, model: Path) -> Calls:
    program = peers.require("rauc", "rauc squashfs-tools")
    peers.require("mksquashfs", "rauc squashfs-tools")
    certificate, key = _self_signed(folder)
    content, out = folder / "content", folder / "out.raucb"
    content.mkdir()
    shutil.copy(model, content / "model.img")
    (content / "manifest.raucm").write_text(
        "[update]\ncompatible=shoal\nversion=1\n[bundle]\nformat=verity\n"
        "[image.rootfs]\nfilename=model.img\n"
    )

    def bundle(_: int) -> None:
        out.unlink(missing_ok=True)
        peers.run(program, "bundle", "--cert", certificate, "--key", key, content, out)

    return {
        "rauc bundle": bundle,
        "rauc info": lambda _: peers.run(program, "info", "--keyring", certificate, out),
    }


def _self_signed(folder: Path) -> tuple[Path, Path]:
    pair = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "owner")])
    begin = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(pair.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - dt.timedelta(days=1))
        .not_valid_after(begin + dt.timedelta(days=30))
        .sign(pair, hashes.SHA256())
    )
    certificate, key = folder / "rauc.crt", folder / "rauc.key"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


@contextmanager
def _folder(where: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=where) as name:
        yield Path(name)


def _write_model(folder: Path) -> Path:
    model = folder / "model.tflite"
    good = (_SAMPLE / "model.tflite").read_bytes()
    model.write_bytes(good + os.urandom(_MODEL_BYTES - len(good)))
    return model


def _on_a_disk() -> dict[str, float]:
    with _folder(None) as folder:
        ours = _Ours(folder, _write_model(folder))
        calls: Calls = {
            "build and sign, on a disk, ms": ours.build,
            "verify, on a disk, ms": ours.verify,
            "tidy": ours.tidy,
        }
        found = timing.medians(timing.interleaved_ms(_ROUNDS, calls))
    del found["tidy"]
    return found


def measure() -> Report:
    """Take turns between ours and the peers, so that all of them see the same machine."""
    figures: dict[str, object] = {"machine": platform.platform(), "processors": os.cpu_count()}
    with _folder("/dev/shm") as folder:  # noqa: S108 - a new folder in it, of this user alone
        model = _write_model(folder)
        ours = _Ours(folder, model)
        data = model.read_bytes()
        calls: Calls = {
            "build": ours.build,
            "verify": ours.verify,
            "tidy": ours.tidy,
            "SHA-256 of 10 MiB": lambda _: chunks.digest_of(data),
        }
        for make, name in ((_mender, "mender-artifact"), (_rauc, "rauc")):
            try:
                calls |= make(folder, model)
                figures[name] = peers.version(name, "--version")
            except peers.Missing as error:
                figures[name] = str(error)
        found = timing.medians(timing.interleaved_ms(_ROUNDS, calls))
        costs = {
            "build and sign, processor time, ms": timing.processor_ms(_ROUNDS, ours.build),
            "verify, processor time, ms": timing.processor_ms(_ROUNDS, ours.verify),
        }
    built, verified = found.pop("build"), found.pop("verify")
    del found["tidy"]
    for name, value in found.items():
        base = verified if name.endswith(("validate", "info")) else built
        figures |= {f"{name}, ms": value, f"{name}, times ours": value / base}
    del figures["SHA-256 of 10 MiB, times ours"]
    return Report(
        limits=[
            Limit(what="build and sign 10 MiB", value=built, unit="ms", limit=_BUILD_MS_MAX),
            Limit(what="verify 10 MiB", value=verified, unit="ms", limit=_VERIFY_MS_MAX),
        ],
        figures={**figures, **costs, **_on_a_disk()},
    )


if __name__ == "__main__":
    sys.exit(benchmark.main("bundle", measure))
