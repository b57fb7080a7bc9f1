"""Hosts and networks that `http_request` may call."""

from __future__ import annotations

import ipaddress

import pytest

from headrace_handlers.http_address import is_allowed
from headrace_handlers.http_request import HttpSettings, allowed_url
from headrace_worker import Fail


@pytest.mark.parametrize(
    ("patterns", "url"),
    [
        (("hooks.example.org",), "https://hooks.example.org/a?b=c"),
        (("hooks.example.org",), "HTTPS://HOOKS.Example.ORG./a"),
        (("hooks.example.org",), "http://hooks.example.org:8080/"),
        (("hooks.example.org:443",), "https://hooks.example.org/"),
        (("*.example.org",), "https://a.b.example.org/"),
        (("*.example.org:8443",), "https://a.example.org:8443/"),
        (("*",), "http://anything.example/"),
        (("127.0.0.1:80",), "http://127.0.0.1/"),
        (("::1",), "http://[::1]:9000/"),
        (("[::1]:9000",), "http://[::1]:9000/"),
        (("xn--bcher-kva.example",), "http://bücher.example/"),
    ],
)
def test_url_of_an_allowed_host_is_accepted(patterns: tuple[str, ...], url: str) -> None:
    allowed_url(url, patterns)


@pytest.mark.parametrize(
    ("patterns", "url"),
    [
        ((), "https://hooks.example.org/"),
        (("hooks.example.org",), "https://example.org/"),
        (("hooks.example.org",), "https://hooks.example.org.evil.example/"),
        (("hooks.example.org",), "https://evil.example/hooks.example.org"),
        (("hooks.example.org",), "https://evil.example\\@hooks.example.org/"),
        (("hooks.example.org:443",), "http://hooks.example.org/"),
        (("hooks.example.org:443",), "https://hooks.example.org:444/"),
        (("*.example.org",), "https://example.org/"),
        (("*.example.org",), "https://evilexample.org/"),
        (("127.0.0.1",), "http://2130706433/"),
        (("::1",), "http://[::2]/"),
    ],
)
def test_url_of_another_host_is_rejected(patterns: tuple[str, ...], url: str) -> None:
    with pytest.raises(Fail):
        allowed_url(url, patterns)


def test_rejected_host_error_names_the_setting() -> None:
    with pytest.raises(Fail, match="HEADRACE_HTTP_ALLOWED_HOSTS") as failure:
        allowed_url("https://hooks.example.org/secret-token", ())
    assert failure.value.type == "HostNotAllowed"
    assert "secret-token" not in str(failure.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/",
        "file:///etc/hosts",
        "https://",
        "https://u:p@a.example/",
        "http://a.example:port/",
        "a.example",
    ],
)
def test_url_that_is_not_http_is_rejected(url: str) -> None:
    with pytest.raises(Fail) as failure:
        allowed_url(url, ("*",))
    assert failure.value.type == "InvalidRequest"


NETWORKS = tuple(map(ipaddress.ip_network, ("10.1.0.0/16", "fd00:1::/32")))


@pytest.mark.parametrize(
    "address",
    [
        *("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"),
        *("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5"),
    ],
)
def test_public_or_listed_address_is_allowed(address: str) -> None:
    assert is_allowed(address, NETWORKS)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::127.0.0.1"),
        *("169.254.169.254", "fe80::1", "fe80::1%lo", "::ffff:169.254.169.254", "fd00:ec2::254"),
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "fc00::1", "fec0::1", "64:ff9b::a00:1"),
        *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
        *("224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "2001:db8::1"),
        *("2002:7f00:1::", "2001:0:7f00:1::", "64:ff9b::7f00:1", "64:ff9b:1::1"),
    ],
)
def test_private_or_special_address_is_rejected(address: str) -> None:
    assert not is_allowed(address, NETWORKS)


def test_network_setting_is_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_NETWORKS", "10.1.0.0/16, FD00:1::/32,")
    assert HttpSettings().allowed_networks == NETWORKS
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_NETWORKS", "10.1.0.1/16")
    with pytest.raises(ValueError, match="has host bits set"):
        HttpSettings()


def test_host_setting_is_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HttpSettings().allowed_hosts == ()
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", " Hooks.Example.org, *.example.com:8443,")
    assert HttpSettings().allowed_hosts == ("hooks.example.org", "*.example.com:8443")
