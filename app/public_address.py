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
_METADATA = [
    ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: most clouds
        "168.63.129.16/32",  # Azure
        "100.100.100.200/32",  # Alibaba
        "192.0.0.192/32",  # Oracle
        "fe80::/10",  # link-local: OpenStack
        "fd00:ec2::/32",  # Amazon
        "fd20:ce::254/128",  # Google
        "fd00:42::42/128",  # Scaleway
    )
]
# Networks of IPv6 whose addresses end with one of IPv4: compatible, mapped, and those of translators.
_WITH_IPV4 = [ip_network(net) for net in ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")]


def is_metadata_address(address: str) -> bool:
    """Whether an IP address is link-local, or a metadata service's. address: of a resolved name.

    Such a service gives the machine's credentials to whoever sends a request from it.
    """
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        ends_with_ipv4 = any(ip in network for network in _WITH_IPV4)
        ip = (IPv4Address(int(ip) & 0xFFFF_FFFF) if ends_with_ipv4 else ip.sixtofour) or ip
    return any(ip in network for network in _METADATA)


def is_public_address(address: str) -> bool:
    """Whether an IP address belongs to the public internet. address: of a resolved name."""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        inner = IPv4Address(int(ip) & 0xFFFF_FFFF) if ip in _NAT64 else ip.ipv4_mapped
        if inner is None:
            return ip in _PUBLIC_IPV6 and not any(ip in network for network in _PRIVATE_IPV6)
        ip = inner
    return not any(ip in network for network in _PRIVATE_IPV4)
