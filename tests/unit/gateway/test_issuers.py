"""The settings of issuers, and the principals built from claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace_core.domain.access import Right, Role
from headrace_core.runtime.settings import StartRefused
from headrace_gateway.access.issuer_settings import Issuer, read_issuers
from headrace_gateway.access.issuers import to_principal

BASE: dict[str, Any] = {
    "issuer": "https://login.example.com",
    "audience": "headrace",
    "tenant": "acme",
    "role": "viewer",
}
CLAIMS: dict[str, Any] = {"sub": "ada", "exp": 2_000_000_000}


def issuer(**fields: object) -> Issuer:
    return Issuer.model_validate({**BASE, **fields})


def test_setting_is_a_document_or_a_file(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "issuers.json", tmp_path / "issuers.toml"
    as_json.write_text(json.dumps({"issuers": [BASE]}))
    as_toml.write_text(
        '[[issuers]]\nissuer = "https://login.example.com"\naudience = ["headrace"]\n'
        'tenant = "acme"\nrole = "viewer"\n'
    )
    for setting in (json.dumps([BASE]), json.dumps({"issuers": [BASE]}), as_json, as_toml):
        assert read_issuers(str(setting)) == (issuer(),)
    assert read_issuers("") == ()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"algorithms": ["HS256"]}, "'HS256' is not accepted"),
        ({"algorithms": ["none"]}, "'none' is not accepted"),
        ({"audience": []}, "at least 1 item"),
        ({"issuer": "http://login.example.com"}, "must begin with https://"),
        ({"jwks": "http://login.example.com/keys"}, "must begin with https://"),
        ({"jwks": "ftp://login.example.com/keys"}, "must begin with https://"),
        ({"tenant": ""}, "set tenant, or claims.tenant"),
        ({"role": None}, "set role, or claims.role"),
        ({"roles": {"staff": "admin"}}, "roles needs claims.role"),
        ({"scope": ["everything"]}, "'everything' is not a scope"),
        ({"leeway": 3600}, "less than or equal to 300"),
        ({"audiences": "x"}, "Extra inputs"),
    ],
)
def test_invalid_issuer_is_rejected(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(StartRefused, match=problem) as caught:
        read_issuers(json.dumps([{**BASE, **fields}]))
    assert str(caught.value).startswith("HEADRACE_ISSUERS: issuers.0")


def test_unreadable_setting_is_rejected(tmp_path: Path) -> None:
    for setting in (str(tmp_path / "missing.toml"), "{", "[1]", json.dumps([BASE, BASE])):
        with pytest.raises(StartRefused, match="HEADRACE_ISSUERS: "):
            read_issuers(setting)


def test_claims_become_a_principal() -> None:
    configured = issuer(
        claims={
            "principal": "email",
            "tenant": ["org", "name"],
            "role": ["realm_access", "roles"],
            "scope": "scope",
        },
        roles={"job-admins": "admin", "job-users": "operator"},
        scope_prefix="headrace:",
        name_prefix="corp:",
        leeway=10,
    )
    principal = to_principal(
        configured,
        {
            **CLAIMS,
            "email": "ada@example.com",
            "org": {"name": "acme"},
            "realm_access": {"roles": ["job-users", "offline_access", "job-admins"]},
            "scope": "openid headrace:jobs:read headrace:queue:mail",
            "jti": "42",
        },
    )
    assert (principal.name, principal.tenant) == ("corp:ada@example.com", "acme")
    assert principal.role is Role.ADMIN
    assert principal.rights == {Right.JOBS_READ}
    assert principal.scope.entries() == ["jobs:read", "queue:mail"]
    assert (principal.credential, principal.expire_time) == ("42", 2_000_000_010)


@pytest.mark.parametrize(
    ("fields", "claims"),
    [
        ({}, {"sub": None}),
        ({}, {"sub": ""}),
        ({}, {"sub": "a\nb"}),
        ({}, {"sub": "a" * 129}),
        ({}, {"exp": 1e300}),
        ({"claims": {"tenant": "tenant"}, "tenant": ""}, {}),
        ({"claims": {"tenant": "tenant"}}, {"tenant": 5}),
        ({"claims": {"tenant": "tenant"}, "tenants": ["acme"]}, {"tenant": "other"}),
        ({"claims": {"role": "role"}, "role": None}, {}),
        ({"claims": {"role": "role"}}, {"role": "owner"}),
        ({"claims": {"role": "role"}}, {"role": []}),
        ({"claims": {"role": "role"}}, {"role": {"viewer": True}}),
        ({"claims": {"role": "role"}}, {"role": "platform"}),
        ({"claims": {"role": "role"}, "roles": {"staff": "viewer"}}, {"role": "viewer"}),
        ({"claims": {"scope": "scope"}}, {}),
        ({"claims": {"scope": "scope"}}, {"scope": ""}),
        ({"claims": {"scope": "scope"}}, {"scope": []}),
        ({"claims": {"scope": "scope"}, "scope_prefix": "hr:"}, {"scope": "jobs:read"}),
        ({"claims": {"scope": "scope"}}, {"scope": "jobs:write"}),
        ({"claims": {"scope": "scope"}}, {"scope": ["jobs:read", 5]}),
    ],
)
def test_missing_or_unknown_claim_is_rejected(
    fields: dict[str, Any], claims: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        to_principal(issuer(**fields), {**CLAIMS, **claims})


def test_fixed_values_apply_to_tokens_without_the_claim() -> None:
    configured = issuer(
        claims={"tenant": "t", "role": "r", "scope": "s"}, scope=["jobs:read", "queue:mail"]
    )
    principal = to_principal(configured, CLAIMS)
    assert (principal.tenant, principal.role) == ("acme", Role.VIEWER)
    assert principal.scope.entries() == ["jobs:read", "queue:mail"]


def test_platform_role_must_be_allowed() -> None:
    configured = issuer(claims={"role": "role"}, max_role="platform")
    assert to_principal(configured, {**CLAIMS, "role": "platform"}).role is Role.PLATFORM
