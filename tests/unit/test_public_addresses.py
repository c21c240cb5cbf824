"""Addresses that an endpoint on the public internet may have."""

import pytest

from app.public_address import is_metadata_address, is_public_address


@pytest.mark.parametrize(
    "address",
    [
        *(
            "1.1.1.1",
            "8.8.8.8",
            "93.184.216.34",
            "172.15.255.255",
            "172.32.0.0",
            "100.63.255.255",
            "11.0.0.0",
        ),
        *("2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450::"),
        # The same by a translator.
        *("64:ff9b::101:101", "::ffff:1.1.1.1"),
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_public_address(address)


PRIVATE_IPV4 = (
    *("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.255", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.0.1", "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "192.0.0.192"),
    *("192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255", "168.63.129.16"),
)


@pytest.mark.parametrize("address", PRIVATE_IPV4)
@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}", "::{}"])
def test_an_address_of_a_private_network_is_refused_in_every_form(address: str, form: str) -> None:
    assert not is_public_address(form.format(address))


@pytest.mark.parametrize(
    "address",
    [
        *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1"),
        *("64:ff9b:1::a00:1", "2001:db8::1", "2001::1", "2001:0:a00:1::", "3fff::1", "4000::1"),
        # Tunnels.
        *("2002:101:101::1", "2002:7f00:1::1"),
    ],
)
def test_an_address_of_a_private_network_of_ipv6_is_refused(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize("address", ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200"])
@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}", "64:ff9b:1::{}", "::{}"])
def test_a_metadata_service_is_known_in_every_form(address: str, form: str) -> None:
    assert is_metadata_address(form.format(address))


@pytest.mark.parametrize(
    "address",
    [
        "fe80::1",
        "fe80::1%lo",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "2002:a9fe:a9fe::1",
        "192.0.0.192",
    ],
)
def test_a_link_local_address_is_known(address: str) -> None:
    assert is_metadata_address(address)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "::1", "fd00::1", "::ffff:10.0.0.1", "8.8.8.8", "2002:808:808::1"]
)
def test_an_address_of_a_network_of_ones_own_is_no_metadata_service(address: str) -> None:
    assert not is_metadata_address(address)
