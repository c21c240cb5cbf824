"""The addresses of the public internet, as against those of private networks. Pure.

Sources: https://www.iana.org/assignments/iana-ipv4-special-registry and …/iana-ipv6-special-registry. The
table of Python's `ipaddress` differs between its releases, and misses some of them.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_PRIVATE_IPV4 = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local: the metadata of cloud machines
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved, broadcast
        "168.63.129.16/32",  # the host of virtual machines on Azure
    )
]
_PUBLIC_IPV6 = ip_network("2000::/3")
# Tunnels among them, which may end anywhere: Teredo (2001::/32) and 6to4 (2002::/16).
_PRIVATE_IPV6 = [ip_network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = ip_network("64:ff9b::/96")


def is_public_address(address: str) -> bool:
    """Whether an IP address belongs to the public internet. address: of a resolved name."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is None:
            return ip in _PUBLIC_IPV6 and not any(ip in network for network in _PRIVATE_IPV6)
        ip = inner
    return not any(ip in network for network in _PRIVATE_IPV4)
