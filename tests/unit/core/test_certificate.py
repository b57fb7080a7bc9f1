"""Subject alternative names of client certificates."""

from __future__ import annotations

import pytest

from headrace_core.domain.certificate import MAX_SAN_LENGTH, parse_san


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("uri:spiffe://example.com/Billing", "uri:spiffe://example.com/Billing"),
        ("uri:urn:uuid:0", "uri:urn:uuid:0"),
        ("dns:Billing.Example.com", "dns:billing.example.com"),
        ("dns:*.example.com", "dns:*.example.com"),
        ("dns:localhost", "dns:localhost"),
    ],
)
def test_name_has_one_form(text: str, name: str) -> None:
    assert parse_san(text) == name
    assert parse_san(name) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", "uri:", "dns:", "spiffe://example.com", "uri:no scheme", "uri:a:b c", "uri:1:a"),
        *("dns:a..b", "dns:a b", "dns:a/b", "dns:é", "email:a@b.c", "DNS:a", "uri:a:b\n"),
        "uri:a:" + "x" * MAX_SAN_LENGTH,
    ],
)
def test_malformed_name_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"subject alternative name|limit"):
        parse_san(text)
