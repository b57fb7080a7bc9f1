"""Logins at an issuer: OpenID Connect's authorization code flow with PKCE.

HEADRACE_WEB_OIDC is a JSON document, or the path of a JSON or TOML file: see docs/dashboard.md. The
gateway verifies the tokens again, for each call.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlencode, urlsplit

import httpx2
import jwt
import pydantic
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from headrace_core.runtime.settings import StartRefused
from headrace_web.sessions.cookies import Credentials

_DISCOVERY: Final = "/.well-known/openid-configuration"
# The deadline of a request to the issuer, in seconds, and the largest response, in bytes.
_TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 256 * 1024
# The accepted difference of the clocks, in seconds.
_LEEWAY_S: Final = 30.0
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


class OidcError(Exception):
    """A login at the issuer has failed. The message contains no secrets.

    Args:
        message: what is wrong.
        rejected: whether the issuer has rejected the login; otherwise a retry may succeed.
    """

    def __init__(self, message: str, *, rejected: bool = False) -> None:
        super().__init__(message)
        self.rejected = rejected


class OidcSettings(BaseModel):
    """The issuer at which users log in.

    Attributes:
        issuer: its URL.
        client_id: the id under which the issuer knows the dashboard.
        client_secret: the secret of the client; empty for a public client.
        name: the name of the issuer on the login page.
        scopes: the requested scopes. `offline_access` requests a refresh token at most issuers.
        credential: the token that the dashboard presents to the gateway.
        ca: the path of the CA certificates that the issuer must chain to; empty for the CAs of the
            system.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str = Field(min_length=1, max_length=500)
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = SecretStr("")
    name: str = "single sign-on"
    scopes: tuple[str, ...] = ("openid", "offline_access")
    credential: Literal["id_token", "access_token"] = "id_token"
    ca: str = ""

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, url: str) -> str:
        _check_url(url, loopback=True)
        return url


@dataclass(frozen=True, slots=True)
class _Endpoints:
    authorization: str
    token: str


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """A login that the issuer has to answer.

    Attributes:
        url: the address of the issuer for the browser.
        state: identifies the answer.
        nonce: identifies the ID token.
        verifier: proves to the issuer that the answer is redeemed by the same server.
    """

    url: str
    state: str
    nonce: str
    verifier: str


def read_oidc(setting: str) -> OidcSettings | None:
    """Return the issuer of HEADRACE_WEB_OIDC; None if the setting is empty.

    Raises:
        StartRefused: the file cannot be read, or the document is invalid.
    """
    text = setting.strip()
    if not text:
        return None
    try:
        return OidcSettings.model_validate(_read_document(text))
    except pydantic.ValidationError as error:
        problem = error.errors(include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        detail = problem["msg"].removeprefix("Value error, ")
        raise StartRefused(f"HEADRACE_WEB_OIDC: {place}: {detail}") from None
    except (OSError, ValueError) as error:
        # The text of a JSON error does not contain the document.
        raise StartRefused(f"HEADRACE_WEB_OIDC: {error}") from None


class OidcClient:
    """A client of the issuer.

    Args:
        settings: the issuer.

    Raises:
        OSError: the CA certificates cannot be read.
    """

    def __init__(self, settings: OidcSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._endpoints: _Endpoints | None = None
        self._http = httpx2.AsyncClient(
            verify=ssl.create_default_context(cafile=settings.ca or None),
            timeout=_TIMEOUT_S,
            # A proxy from the environment cannot reach the loopback address of this machine.
            trust_env=not _is_loopback(settings.issuer),
        )

    async def begin(self, redirect_uri: str) -> LoginRequest:
        """Return a new login.

        Args:
            redirect_uri: the address to which the issuer sends the browser back.

        Raises:
            OidcError: the issuer did not answer.
        """
        endpoints = await self._discover()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        parameters = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge(verifier),
            "code_challenge_method": "S256",
        }
        separator = "&" if "?" in endpoints.authorization else "?"
        url = f"{endpoints.authorization}{separator}{urlencode(parameters)}"
        return LoginRequest(url=url, state=state, nonce=nonce, verifier=verifier)

    async def exchange(
        self, *, code: str, nonce: str, verifier: str, redirect_uri: str
    ) -> Credentials:
        """Return the tokens for a code of the issuer.

        Raises:
            OidcError: the issuer rejects the code, or its ID token is not for this login.
        """
        tokens = await self._request_tokens(
            grant_type="authorization_code",
            code=code,
            redirect_uri=redirect_uri,
            code_verifier=verifier,
        )
        claims = self._claims(tokens)
        if claims.get("nonce") != nonce:
            raise OidcError("the ID token belongs to another login", rejected=True)
        return self._credentials(tokens, claims)

    async def renew(self, refresh_token: str) -> Credentials:
        """Return the next tokens.

        Raises:
            OidcError: the issuer rejects the refresh token or did not answer.
        """
        tokens = await self._request_tokens(grant_type="refresh_token", refresh_token=refresh_token)
        # An issuer may return no new ID token, or no new refresh token.
        claims = self._claims(tokens) if "id_token" in tokens else {}
        return self._credentials({"refresh_token": refresh_token, **tokens}, claims)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _discover(self) -> _Endpoints:
        """Return the endpoints of the issuer (OpenID Connect Discovery 1.0, section 4)."""
        if self._endpoints is None:
            issuer = self._settings.issuer
            document = await self._fetch("GET", issuer.rstrip("/") + _DISCOVERY)
            if document.get("issuer") != issuer:
                raise OidcError("the discovery document belongs to another issuer")
            urls = [str(document.get(f"{name}_endpoint")) for name in ("authorization", "token")]
            for url in urls:
                try:
                    _check_url(url, loopback=_is_loopback(issuer))
                except ValueError as error:
                    raise OidcError(f"the discovery document of the issuer: {error}") from error
            self._endpoints = _Endpoints(*urls)
        return self._endpoints

    async def _request_tokens(self, **parameters: str) -> Mapping[str, Any]:
        endpoints = await self._discover()
        form = {"client_id": self._settings.client_id, **parameters}
        secret = self._settings.client_secret.get_secret_value()
        if secret:
            form["client_secret"] = secret
        return await self._fetch("POST", endpoints.token, data=form)

    def _claims(self, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the claims of the ID token.

        The token comes from the issuer over TLS, which replaces the check of its signature (OpenID
        Connect Core 1.0, section 3.1.3.7). The gateway checks the signature of its credential.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                str(tokens.get("id_token", "")),
                options={
                    "verify_signature": False,
                    "verify_exp": True,
                    "verify_aud": True,
                    "verify_iss": True,
                    "require": ["iss", "aud", "exp", "sub"],
                },
                audience=self._settings.client_id,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
            )
        except jwt.PyJWTError as error:
            raise OidcError(f"the ID token is not valid: {error}", rejected=True) from error
        return claims

    def _credentials(self, tokens: Mapping[str, Any], claims: Mapping[str, Any]) -> Credentials:
        access = tokens.get(self._settings.credential)
        if not isinstance(access, str) or not access:
            raise OidcError(f"the issuer returned no {self._settings.credential}", rejected=True)
        if self._settings.credential == "id_token":
            seconds = _number(claims.get("exp")) - _number(claims.get("iat", 0))
        else:
            seconds = _number(tokens.get("expires_in", 300))
        refresh = tokens.get("refresh_token")
        return Credentials(
            access=access,
            access_s=max(1.0, seconds),
            refresh=refresh if isinstance(refresh, str) else "",
        )

    async def _fetch(self, method: str, url: str, **options: Any) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                response = await self._http.request(
                    method, url, headers={"accept": "application/json"}, **options
                )
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
            raise OidcError(f"the issuer did not answer ({type(error).__name__})") from error
        if response.status_code != 200 or len(response.content) > _MAX_BYTES:
            raise OidcError(
                f"the issuer answered with the status {response.status_code}",
                rejected=response.status_code in (400, 401, 403),
            )
        try:
            document = json.loads(response.content)
        except ValueError as error:
            raise OidcError("the issuer's answer is not JSON") from error
        if not isinstance(document, dict):
            raise OidcError("the issuer's answer is not a JSON object")
        return document


def code_challenge(verifier: str) -> str:
    """Return the challenge of a verifier by the method S256 (RFC 7636, section 4.2)."""
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise OidcError("the issuer returned no lifetime of its token", rejected=True)
    return float(value)


def _read_document(setting: str) -> Any:
    if setting.startswith("{"):
        return json.loads(setting)
    path = Path(setting)
    text = path.read_text(encoding="utf-8")
    return tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)


def _check_url(url: str, *, loopback: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if loopback and parts.scheme == "http" and _is_loopback(url):
        return
    raise ValueError(f"{url!r} must begin with https://; http:// is accepted for 127.0.0.1 only")


def _is_loopback(url: str) -> bool:
    return (urlsplit(url).hostname or "") in _LOOPBACK
