"""Root and issuing authority: what daily work needs, and what others can check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store

from control_plane.fleet.authority import ROOT_KEY, Authority
from firmware_bundles.errors import ConfigInvalid, Malformed, StateDamaged
from support.control_planes import Clock

if TYPE_CHECKING:
    from pathlib import Path

YEAR_S = 365 * 86_400


def issue(authority: Authority) -> list[x509.Certificate]:
    """Return the chain of a new device."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = authority.issue_device("dev-a", key)
    return x509.load_pem_x509_certificates(issued.certificate_pem.encode())


@pytest.mark.parametrize("days", [30, 60, 90])
def test_a_device_certificate_lives_as_long_as_was_set(tmp_path: Path, days: int) -> None:
    """The setting is the whole life, for enrolments and renewals alike."""
    clock = Clock()
    leaf, _ = issue(Authority.load_or_create(tmp_path, clock, days * 86_400))
    assert leaf.not_valid_after_utc.timestamp() == pytest.approx(clock() + days * 86_400, abs=1)


def test_work_goes_on_while_the_root_key_is_away(tmp_path: Path) -> None:
    """With the root's key moved away, chains are issued that end at the same root."""
    clock = Clock()
    before = Authority.load_or_create(tmp_path, clock)
    assert (tmp_path / ROOT_KEY).stat().st_mode & 0o777 == 0o600
    (tmp_path / ROOT_KEY).unlink()
    after = Authority.load_or_create(tmp_path, clock)
    assert after.certificate_pem == before.certificate_pem
    leaf, issuing = issue(after)
    root = x509.load_pem_x509_certificate(before.certificate_pem)
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
    below = issuing.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (below.ca, below.path_length) == (True, 0)


def test_a_server_sends_what_leads_to_the_root(tmp_path: Path) -> None:
    """Who knows the root alone can check a server by what it sends."""
    clock = Clock()
    authority = Authority.load_or_create(tmp_path, clock)
    pair = authority.issue_server(["fleet.example", "127.0.0.1"])
    leaf, *chain = x509.load_pem_x509_certificates(pair.certificate)
    store = Store([x509.load_pem_x509_certificate(authority.certificate_pem)])
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(leaf.not_valid_before_utc.replace(tzinfo=None))
        .build_server_verifier(x509.DNSName("fleet.example"))
    )
    assert len(verifier.verify(leaf, chain)) == 3


def test_an_ending_issuing_authority_is_renewed_under_the_root(tmp_path: Path) -> None:
    """In its last year it is renewed with the same key, if the root's key is there."""
    clock = Clock()
    first = Authority.load_or_create(tmp_path, clock)
    (tmp_path / ROOT_KEY).rename(tmp_path / "elsewhere")
    leaf, _ = issue(first)
    clock.now += 4.5 * YEAR_S
    assert Authority.load_or_create(tmp_path, clock).is_ending()
    (tmp_path / "elsewhere").rename(tmp_path / ROOT_KEY)
    renewed = Authority.load_or_create(tmp_path, clock)
    assert not renewed.is_ending()
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(renewed.issuing_pem))


def test_an_authority_of_one_level_is_refused_by_name(tmp_path: Path) -> None:
    """A folder of before the two were apart is not overwritten: a person decides."""
    (tmp_path / "ca.pem").write_bytes(b"old")
    with pytest.raises(ConfigInvalid, match="before root and issuing"):
        Authority.load_or_create(tmp_path, Clock())
    assert [file.name for file in tmp_path.iterdir()] == ["ca.pem"]


@pytest.mark.parametrize("name", ["svc.control", "dev-a/up", "+", "#", "", "Dev", "a b", "a" * 64])
def test_no_device_is_certified_under_a_strange_name(tmp_path: Path, name: str) -> None:
    """Names of services and whatever means something in a topic are refused at signing."""
    authority = Authority.load_or_create(tmp_path, Clock())
    with pytest.raises(Malformed):
        authority.issue_device(name, ec.generate_private_key(ec.SECP256R1()).public_key())


def test_a_lost_issuing_key_is_damage(tmp_path: Path) -> None:
    """It is never made anew in silence."""
    Authority.load_or_create(tmp_path, Clock())
    (tmp_path / "issuing.key").unlink()
    with pytest.raises(StateDamaged):
        Authority.load_or_create(tmp_path, Clock())
