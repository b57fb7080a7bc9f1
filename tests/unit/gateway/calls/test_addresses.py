"""The address of a caller, directly and through proxies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from headrace_gateway.calls.addresses import Addresses, host_of
from headrace_gateway.calls.exchange import Exchange, Method

PROXY = "ipv4:10.0.0.7:41234"
CERTIFICATE = {"x509_pem_cert": [b"PEM"], "peer_dns": [b"Web.example.com"]}


class Context:
    """The gRPC context of a call."""

    def __init__(
        self, peer: str, header: tuple[str, ...], certificate: Mapping[str, list[bytes]]
    ) -> None:
        self._peer = peer
        self._metadata = tuple(("x-forwarded-for", value) for value in header)
        self._certificate = certificate
        self.write = None

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def auth_context(self) -> Mapping[str, list[bytes]]:
        return self._certificate


def caller(
    *header: str,
    peer: str = PROXY,
    trusted: tuple[str, ...] = ("10.0.0.0/8",),
    certificate: Mapping[str, list[bytes]] | None = None,
) -> str:
    """Return the address that the link sets."""
    context: Any = Context(peer, header, certificate or {})
    exchange = Exchange(b"", context)
    proceed: Any = lambda _: None  # noqa: E731
    method: Any = Method(path="/headrace.v1.JobService/GetJob", request_class=type(None))
    Addresses(trusted).wrap(method, proceed)(exchange)
    return exchange.address


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.7:41234", "10.0.0.7"),
        ("ipv6:%5B::1%5D:41234", "::1"),
        ("ipv6:[2001:db8::7]:443", "2001:db8::7"),
        ("unix:/run/headrace.sock", "unix"),
        ("", ""),
    ],
)
def test_peer_address_has_no_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9:1234"], "203.0.113.9"),
        (["2001:db8::9"], "2001:db8::9"),
        (["[2001:db8::9]:443"], "2001:db8::9"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        # The caller wrote the first address, and the proxy appended the second one.
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        # Another trusted proxy is in between.
        (["203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["10.1.2.4, 10.1.2.3"], "10.1.2.4"),
        (["203.0.113.9, unknown"], "10.0.0.7"),
        (["203.0.113.9, unknown, 10.1.2.3"], "10.1.2.3"),
        ([""], "10.0.0.7"),
        ([], "10.0.0.7"),
    ],
)
def test_trusted_proxy_names_the_caller(header: list[str], address: str) -> None:
    assert caller(*header) == address


@pytest.mark.parametrize("trusted", [(), ("10.0.1.0/24",), ("dns:web.example.com",)])
def test_header_of_an_untrusted_peer_is_ignored(trusted: tuple[str, ...]) -> None:
    assert caller("203.0.113.9", trusted=trusted) == "10.0.0.7"


def test_certificate_name_of_a_proxy_is_trusted() -> None:
    trusted = ("dns:web.example.com",)
    assert caller("203.0.113.9", trusted=trusted, certificate=CERTIFICATE) == "203.0.113.9"
    others = {**CERTIFICATE, "peer_dns": [b"other.example.com"]}
    assert caller("203.0.113.9", trusted=trusted, certificate=others) == "10.0.0.7"


def test_name_of_an_unverified_certificate_is_not_trusted() -> None:
    unverified = {"peer_dns": CERTIFICATE["peer_dns"]}
    trusted = ("dns:web.example.com",)
    assert caller("203.0.113.9", trusted=trusted, certificate=unverified) == "10.0.0.7"
