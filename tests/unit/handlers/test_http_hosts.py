"""Only allowed hosts are called."""

from __future__ import annotations

import pytest

from headrace_worker import Fail
from headrace_worker.handlers.http_request import HttpSettings, allowed_url


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
def test_an_allowed_host_is_called(patterns: tuple[str, ...], url: str) -> None:
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
def test_any_other_host_is_not(patterns: tuple[str, ...], url: str) -> None:
    with pytest.raises(Fail):
        allowed_url(url, patterns)


def test_the_error_names_the_setting() -> None:
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
def test_what_is_no_plain_http_url_is_refused(url: str) -> None:
    with pytest.raises(Fail) as failure:
        allowed_url(url, ("*",))
    assert failure.value.type == "InvalidRequest"


def test_the_setting_is_a_comma_list(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HttpSettings().allowed_hosts == ()
    monkeypatch.setenv("HEADRACE_HTTP_ALLOWED_HOSTS", " Hooks.Example.org, *.example.com:8443,")
    assert HttpSettings().allowed_hosts == ("hooks.example.org", "*.example.com:8443")
