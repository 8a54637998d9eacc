"""What is written for mosquitto, and which broker addresses are taken."""

from __future__ import annotations

import pytest

from control_plane.broker import acl, endpoint, mosquitto
from firmware_bundles.errors import ConfigInvalid, Malformed
from firmware_bundles.identifiers import DeviceId, parse


def test_a_device_may_use_only_its_own_branch() -> None:
    """The access file gives devices their own branch and the public topics, and no more."""
    rules = [line for line in acl.text().splitlines() if line.startswith("pattern")]
    writes = [rule for rule in rules if "write" in rule]
    assert all(rule.startswith("pattern write shoal/v1/d/%u/up/") for rule in writes)
    assert not any(rule.endswith("#") for rule in writes)
    assert "pattern read shoal/v1/d/%u/down/#" in rules
    assert "pattern read shoal/v1/chunk/+" in rules
    assert "pattern read shoal/v1/repo/metadata/+" in rules


def test_no_device_can_have_the_name_of_the_service() -> None:
    """The service's name lies outside the alphabet of device ids."""
    with pytest.raises(Malformed):
        parse(DeviceId, acl.SERVICE, "device id")
    assert f"user {acl.SERVICE}\ntopic readwrite shoal/v1/#" in acl.text()


def test_mosquitto_takes_nobody_without_certificate() -> None:
    """The configuration asks for certificates and takes the name from them."""
    lines = mosquitto.configuration("127.0.0.1", 8883).splitlines()
    assert "listener 8883 127.0.0.1" in lines
    for line in (
        "require_certificate true",
        "use_identity_as_username true",
        "use_username_as_clientid true",
        "allow_anonymous false",
        "acl_file acl",
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("mqtts://broker.example", ("broker.example", 8883, True)),
        ("mqtts://broker.example:443", ("broker.example", 443, True)),
        ("mqtt://127.0.0.1", ("127.0.0.1", 1883, False)),
        ("mqtt://[::1]:1999", ("::1", 1999, False)),
    ],
)
def test_reads_addresses_of_brokers(url: str, found: tuple[str, int, bool]) -> None:
    """A broker's address is host, port and whether it speaks TLS."""
    assert endpoint.parse(url) == found


@pytest.mark.parametrize(
    "url", ["mqtt://broker.example", "http://x", "nonsense", "mqtts://", "mqtts://x:99999"]
)
def test_refuses_addresses_that_are_wrong_or_in_the_clear(url: str) -> None:
    """Plain MQTT is for loopback only; anything else is named as wrong."""
    with pytest.raises(ConfigInvalid):
        endpoint.parse(url)
