"""The addresses that http_request may connect to.

An allowed name can resolve to any address, and to a different one later (DNS rebinding). Therefore,
a name is resolved once, its addresses are checked, and the request is sent to one of them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final, TypeAlias

from headrace_worker import Fail

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Maximum number of addresses to try for a name.
_MAX_ADDRESSES: Final = 4

# Networks that are not public, in addition to those that `ipaddress` lists: protocol assignments,
# former site-local addresses, relays with an IPv4 address that the sender chooses
# (IANA's registries of special-purpose addresses), and the metadata service of Azure.
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",
            "192.88.99.0/24",
            "168.63.129.16/32",
            "64:ff9b:1::/48",
            "2001::/23",
            "2002::/16",
            "3fff::/20",
            "5f00::/16",
            "fec0::/10",
        ),
    )
)
# Addresses with an embedded IPv4 address (RFC 6052), which is checked instead.
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


async def resolve(host: str, port: int, allowed: Sequence[Network]) -> list[str]:
    """Return the addresses of a host, in the order in which to try them.

    Args:
        host: a name or an address.
        port: the port.
        allowed: networks that are allowed even if they are not public.

    Raises:
        Fail: an address is not allowed, or the name is malformed.
        OSError: the name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise Fail(f"{host!r} is not a host name", type="InvalidRequest") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_allowed(address, allowed):
            raise Fail(
                f"{host} has the address {address}, which is not public; add its network to "
                "HEADRACE_HTTP_ALLOWED_NETWORKS on the worker to allow it",
                type="HostNotAllowed",
            )
    return addresses[:_MAX_ADDRESSES]


def is_allowed(text: str, allowed: Sequence[Network]) -> bool:
    """Return whether an address is public or in one of the networks."""
    address = _unwrap_ipv4(ipaddress.ip_address(text))
    return _is_public(address) or any(
        address.version == network.version and address in network for network in allowed
    )


def _unwrap_ipv4(address: Address) -> Address:
    """Return the IPv4 address embedded in an IPv6 address, otherwise the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in _NOT_PUBLIC)
    )
