"""The issuers whose tokens a gateway accepts: HEADRACE_ISSUERS.

The setting is a JSON document, or the path of a JSON or TOML file. docs/access.md describes it.
"""

from __future__ import annotations

import ipaddress
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from headrace_core.domain.access import Role, parse_scope
from headrace_core.domain.limits import NAME_RULE, is_name
from headrace_core.runtime.settings import StartRefused

# Signatures with a public key. With a shared secret, each verifier could also sign, and the public
# key of an issuer could be misused as a secret.
ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)

_MAX_BYTES: Final = 1024 * 1024

# The name of a claim, or the names on the path to a nested claim.
ClaimPath = tuple[str, ...]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claims(_Model):
    """The claims from which a principal is made.

    Attributes:
        principal: the claim with the name of the principal.
        tenant: the claim with the tenant; None if all tokens are of one tenant.
        role: the claim with a role, or a list of groups; None if all tokens have one role.
        scope: the claim with the scope, a list or text with spaces; None for the full scope.
    """

    principal: ClaimPath = ("sub",)
    tenant: ClaimPath | None = None
    role: ClaimPath | None = None
    scope: ClaimPath | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _to_path(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class Issuer(_Model):
    """An issuer.

    Attributes:
        issuer: the claim `iss` of its tokens.
        audience: the accepted audiences; the claim `aud` must contain one.
        algorithms: the accepted algorithms.
        jwks: the URL or the path of its keys; empty for discovery (OpenID Connect).
        ca: the path of the CA certificates that its server must chain to; empty for the CAs of the
            system.
        leeway: the accepted difference of clocks, in seconds.
        refresh: seconds between two reads of the keys.
        max_stale: seconds for which the keys are used while they cannot be read.
        claims: the claims from which a principal is made.
        tenant: the tenant of tokens without such a claim; empty if the claim is required.
        tenants: the tenants that the issuer may name; empty for all.
        role: the role of tokens without such a claim; None if the claim is required.
        roles: the roles by the values of the claim; empty if the values are roles.
        max_role: the highest role that the issuer may grant.
        scope: the scope of tokens without such a claim; None if the claim is required.
        scope_prefix: the prefix of the values that are entries of a scope. Others are ignored.
        name_prefix: the prefix of the names of the principals.
    """

    issuer: str = Field(min_length=1, max_length=500)
    audience: Annotated[tuple[str, ...], Field(min_length=1)]
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    jwks: str = ""
    ca: str = ""
    leeway: float = Field(30.0, ge=0, le=300)
    refresh: float = Field(300.0, ge=1)
    max_stale: float = Field(86_400.0, ge=1)
    claims: Claims = Claims()
    tenant: str = ""
    tenants: tuple[str, ...] = ()
    role: Role | None = None
    roles: Mapping[str, Role] = {}
    max_role: Role = Role.ADMIN
    scope: tuple[str, ...] | None = None
    scope_prefix: str = ""
    name_prefix: str = ""

    @field_validator("audience", mode="before")
    @classmethod
    def _to_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("algorithms")
    @classmethod
    def _check_algorithms(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in ALGORITHMS:
                accepted = ", ".join(ALGORITHMS)
                raise ValueError(f"{name!r} is not accepted; use one or more of {accepted}")
        return names

    @field_validator("jwks")
    @classmethod
    def _check_jwks(cls, place: str) -> str:
        if "://" in place:
            check_url(place)
        return place

    @field_validator("tenants", "tenant")
    @classmethod
    def _check_tenants(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for name in (value,) if isinstance(value, str) else value:
            if name and not is_name(name):
                raise ValueError(f"{name!r}: the tenant {NAME_RULE}")
        return value

    @field_validator("scope")
    @classmethod
    def _check_scope(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        parse_scope(entries or ())
        return entries

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.jwks:
            check_url(self.issuer)
        if self.claims.tenant is None and not self.tenant:
            raise ValueError("set tenant, or claims.tenant to the name of a claim")
        if self.claims.role is None and self.role is None:
            raise ValueError("set role, or claims.role to the name of a claim")
        if self.roles and self.claims.role is None:
            raise ValueError("roles needs claims.role, the name of the claim")
        return self


class _Document(_Model):
    issuers: tuple[Issuer, ...]

    @field_validator("issuers")
    @classmethod
    def _check_names(cls, issuers: tuple[Issuer, ...]) -> tuple[Issuer, ...]:
        names = [issuer.issuer for issuer in issuers]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the issuer {name!r} is listed twice")
        return issuers


def read_issuers(setting: str) -> tuple[Issuer, ...]:
    """Return the issuers of HEADRACE_ISSUERS.

    Raises:
        StartRefused: the file cannot be read, or the document is invalid.
    """
    if not setting.strip():
        return ()
    try:
        return _Document.model_validate(_read_document(setting.strip())).issuers
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        raise StartRefused(f"HEADRACE_ISSUERS: {place}: {text}") from error
    except (OSError, ValueError) as error:
        raise StartRefused(f"HEADRACE_ISSUERS: {error}") from error


def check_url(url: str, *, loopback: bool = True) -> None:
    """Check the URL of an issuer's server.

    Args:
        url: the URL.
        loopback: whether plain HTTP to this machine is accepted.

    Raises:
        ValueError: the URL does not use HTTPS.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if loopback and parts.scheme == "http" and is_loopback(url):
        return
    raise ValueError(f"{url!r} must begin with https://; http:// is accepted for 127.0.0.1 only")


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_document(setting: str) -> Any:
    if setting.startswith(("{", "[")):
        document = json.loads(setting)
    else:
        path = Path(setting)
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{path} has more than {_MAX_BYTES:,} bytes")
        text = content.decode()
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    return {"issuers": document} if isinstance(document, list) else document
