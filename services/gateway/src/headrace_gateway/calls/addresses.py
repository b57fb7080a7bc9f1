"""The link `address`: determines the network address of the caller, also behind proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Sequence
from typing import ClassVar, Final, TypeAlias
from urllib.parse import unquote

from google.protobuf.message import Message

from headrace_gateway.calls.call import Metadata
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.peer_certificates import certificate_names, certificate_properties

# Each proxy appends the address of its own caller.
FORWARDED_FOR: Final = "x-forwarded-for"
# The maximum number of proxies between a caller and the gateway.
_MAX_PROXIES: Final = 16

_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"


class Addresses:
    """Sets the address of the caller of an exchange.

    Args:
        trusted_proxies: the proxies whose header `x-forwarded-for` is used: networks, such as
            `10.0.0.0/8`, and names of client certificates, such as `dns:web.example.com`.
    """

    name: ClassVar[str] = "address"
    needs: ClassVar[tuple[str, ...]] = ()

    def __init__(self, trusted_proxies: Sequence[str] = ()) -> None:
        self._names = frozenset(
            entry for entry in trusted_proxies if entry.startswith(("uri:", "dns:"))
        )
        self._networks = tuple(
            ipaddress.ip_network(entry) for entry in trusted_proxies if entry not in self._names
        )

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that sets the address and calls `proceed`."""
        del method
        has_proxies = bool(self._names or self._networks)

        def set_address(exchange: Exchange) -> Awaitable[Message | None]:
            exchange.address = host_of(exchange.context.peer())
            if has_proxies:
                hops = _read_hops(exchange.metadata)
                if hops and self._trusts_peer(exchange):
                    exchange.address = self._last_untrusted(hops, exchange.address)
            return proceed(exchange)

        return set_address

    def _trusts_peer(self, exchange: Exchange) -> bool:
        address = _parse(exchange.address)
        if address is not None and self._is_trusted(address):
            return True
        if not self._names:
            return False
        names = certificate_names(certificate_properties(exchange.context.auth_context()))
        return not self._names.isdisjoint(names)

    def _last_untrusted(self, hops: Sequence[str], peer: str) -> str:
        """Return the last address that a trusted proxy reports and that is not itself trusted."""
        caller = peer
        for hop in reversed(hops[-_MAX_PROXIES:]):
            address = _parse(hop)
            if address is None:
                break
            caller = str(address)
            if not self._is_trusted(address):
                break
        return caller

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)


def host_of(peer: str) -> str:
    """Return the address of a gRPC peer without its port, such as `10.0.0.7` or `::1`."""
    kind, _, rest = peer.partition(":")
    if kind not in {"ipv4", "ipv6"}:
        return kind
    return unquote(rest).rpartition(":")[0].strip("[]")


def _read_hops(metadata: Metadata) -> list[str]:
    """Return the addresses of the header `x-forwarded-for`, nearest proxy last."""
    values = [str(value) for key, value in metadata if key == FORWARDED_FOR]
    return ",".join(values).split(",") if values else []


def _parse(text: str) -> _Address | None:
    """Return an address with or without a port; None if it is malformed."""
    host = text.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
