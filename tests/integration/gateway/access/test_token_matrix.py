"""The token matrix: every kind of credential, and the gateway's response to it.

docs/security.md contains the table. `HEADRACE_TEST_WRITE_DOCS=1` writes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.v1.access_service_pb2 import MintWatchTokenRequest, RevokeApiKeyRequest
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_pb2 import JobSpec
from headrace.v1.job_service_pb2 import GetStatsRequest, SubmitJobRequest, WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace.v1.session_service_pb2 import LoginRequest, LogoutRequest, RefreshSessionRequest
from headrace.v1.session_service_pb2_grpc import SessionServiceStub
from headrace.v1.user_service_pb2 import CreateUserRequest, UpdateUserRequest
from headrace.v1.user_service_pb2_grpc import UserServiceStub
from headrace_core.domain.access import Principal, PrincipalKind, Role
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.refresh_token import new_refresh_token
from headrace_core.domain.signing_key import new_signing_key
from headrace_core.runtime.settings import Settings
from headrace_core.store.access.changes import record_change
from headrace_core.store.access.signing_keys import read_signing_keys
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation, read_installation
from headrace_gateway.access.signing import InstallationTokens
from headrace_gateway.service import Gateway
from support.access import Metadata, add_api_key, bearer
from support.gateway import TIMEOUT, read_error
from support.issuer import (
    AUDIENCE,
    LocalIssuer,
    decode_part,
    encode_part,
    public_jwk,
    public_pem,
    running_issuer,
)

DOCS = Path(__file__).parents[4] / "docs" / "security.md"
BEGIN, END = "<!-- token matrix: begin -->\n", "<!-- token matrix: end -->\n"

PASSWORD = "correct horse battery staple"

OK = "accepted"
REJECTED = "UNAUTHENTICATED"
FORBIDDEN = "PERMISSION_DENIED"


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[LocalIssuer]:
    with running_issuer(tmp_path) as issuer:
        yield issuer


@pytest.fixture
def attacker() -> Iterator[LocalIssuer]:
    """An issuer that the gateway does not trust."""
    with running_issuer() as attacker:
        yield attacker


@pytest.fixture
def settings(settings: Settings, issuer: LocalIssuer) -> Settings:
    return settings.model_copy(
        update={
            "access_control": True,
            "issuers": issuer.setting(tenants=["default", "closed"]),
        }
    )


@dataclass
class Credentials:
    """The sources of credentials: a gateway, a trusted issuer and an attacker's issuer."""

    issuer: LocalIssuer
    attacker: LocalIssuer
    database: Database
    installation: Installation
    tokens: InstallationTokens
    access: AccessServiceStub
    jobs: JobServiceStub
    sessions: SessionServiceStub
    users: UserServiceStub
    admin: Metadata

    async def user_token(self, **fields: Any) -> str:
        """Return the token of a user who logged in."""
        return await self.tokens.issue(user(**fields), version=0)

    async def signing_key(self) -> tuple[str, Ed25519PrivateKey]:
        """Return the id of the signing key, and the key."""
        await self.user_token()
        async with self.database.statement() as conn:
            [key] = await read_signing_keys(conn)
        return key.id, Ed25519PrivateKey.from_private_bytes(key.seed)

    async def change(self, token: str, *, kind: str, subject: str) -> None:
        """Record a change that revokes a token, and wait until the gateway has applied it."""
        async with self.ending_stream(token), self.database.transaction() as conn:
            await record_change(conn, tenant="default", kind=kind, subject=subject)

    async def revoke(self, key: str, token: str) -> None:
        """Revoke an API key, and wait until the gateway has ended the streams of a token."""
        async with self.ending_stream(token):
            await self.access.RevokeApiKey(
                RevokeApiKeyRequest(id=key.split("_")[1]), metadata=self.admin
            )

    @asynccontextmanager
    async def ending_stream(self, token: str) -> AsyncIterator[None]:
        """Open a stream; after the block, wait until the gateway ends the stream."""
        stream = self.jobs.WatchJobs(WatchJobsRequest(), metadata=bearer(token))
        async with asyncio.timeout(TIMEOUT):
            await stream.read()
            yield
            with pytest.raises(grpc.aio.AioRpcError) as excinfo:
                while await stream.read() is not grpc.aio.EOF:
                    pass
        assert read_error(excinfo.value).reason == "CREDENTIAL_CHANGED"

    async def log_in(self, name: str = "ada") -> str:
        """Log in, and return the refresh token."""
        with suppress(grpc.aio.AioRpcError):
            await self.users.CreateUser(
                CreateUserRequest(name=name, password=PASSWORD), metadata=self.admin
            )
        response = await self.sessions.Login(LoginRequest(username=name, password=PASSWORD))
        return response.tokens.refresh_token

    async def refresh(self, token: str) -> str:
        """Exchange a refresh token, and return the new one."""
        response = await self.sessions.RefreshSession(RefreshSessionRequest(refresh_token=token))
        return response.tokens.refresh_token

    async def watch_token(self, metadata: Metadata) -> str:
        """Mint a watch token as a caller, and return it."""
        mint_response = await self.access.MintWatchToken(
            MintWatchTokenRequest(labels={"user": "42"}), metadata=metadata
        )
        return mint_response.token


def user(**fields: Any) -> Principal:
    values: dict[str, Any] = {
        "name": "ada",
        "tenant": "default",
        "kind": PrincipalKind.USER,
        "role": Role.OPERATOR,
        "credential": "session",
        "expire_time": time.time() + 600,
        **fields,
    }
    return Principal.of(**values)


@pytest.fixture
async def credentials(
    issuer: LocalIssuer,
    attacker: LocalIssuer,
    database: Database,
    gateway: Gateway,
    channel: grpc.aio.Channel,
) -> AsyncIterator[Credentials]:
    async with database.statement() as conn:
        installation = await read_installation(conn)
    return Credentials(
        issuer=issuer,
        attacker=attacker,
        database=database,
        installation=installation,
        tokens=InstallationTokens(database=database, installation=installation),
        access=AccessServiceStub(channel),
        jobs=JobServiceStub(channel),
        sessions=SessionServiceStub(channel),
        users=UserServiceStub(channel),
        admin=bearer(await add_api_key(database, Role.ADMIN)),
    )


Make = Callable[[Credentials], str | Awaitable[str]]


def changed(token: str, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Return a token with changed content and the original signature."""
    parts = token.split(".")
    return ".".join(
        (
            encode_part({**decode_part(parts[0]), **(header or {})}),
            encode_part({**decode_part(parts[1]), **claims}),
            parts[2],
        )
    )


def unsigned(token: str, algorithm: str) -> str:
    """Return an unsigned token whose header names an algorithm."""
    return changed(token, header={"alg": algorithm}).rpartition(".")[0] + "."


def hmac_signed(token: str, secret: bytes) -> str:
    """Return a token whose HS256 signature uses a public key as the secret."""
    content = changed(token, header={"alg": "HS256"}).rpartition(".")[0]
    return f"{content}.{encode_part(hmac.digest(secret, content.encode(), hashlib.sha256))}"


def with_flipped_bit(token: str) -> str:
    """Return a token with a changed signature."""
    content, _, signature = token.rpartition(".")
    return f"{content}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def with_foreign_signature(credentials: Credentials) -> str:
    """Return the content of one token with the signature of another."""
    first, second = credentials.issuer.token(), credentials.issuer.token(sub="bob")
    return f"{first.rpartition('.')[0]}.{second.rpartition('.')[2]}"


def later(seconds: float) -> int:
    return int(time.time() + seconds)


# Tokens of the trusted issuer, with the expected result.
ISSUER: list[tuple[str, Make, str]] = [
    ("valid, RS256", lambda w: w.issuer.token("rsa"), OK),
    ("valid, ES256", lambda w: w.issuer.token("ec"), OK),
    ("valid, EdDSA", lambda w: w.issuer.token("ed"), OK),
    ("valid, one of several audiences", lambda w: w.issuer.token(aud=["x", AUDIENCE]), OK),
    ("expired a moment ago, within the leeway", lambda w: w.issuer.token(exp=later(-5)), OK),
    ("algorithm `none`", lambda w: unsigned(w.issuer.token(), "none"), REJECTED),
    ("algorithm `nOnE`", lambda w: unsigned(w.issuer.token(), "nOnE"), REJECTED),
    ("algorithm missing", lambda w: changed(w.issuer.token(), header={"alg": None}), REJECTED),
    (
        "HS256 with the public key (PEM) as the secret",
        lambda w: hmac_signed(w.issuer.token(), public_pem(w.issuer.keys["rsa"])),
        REJECTED,
    ),
    (
        "HS256 with the public key (DER) as the secret",
        lambda w: hmac_signed(
            w.issuer.token("ed"), w.issuer.keys["ed"].public_key().public_bytes_raw()
        ),
        REJECTED,
    ),
    ("HS256 with an empty secret", lambda w: hmac_signed(w.issuer.token(), b""), REJECTED),
    ("algorithm not accepted, RS512", lambda w: w.issuer.token(algorithm="RS512"), REJECTED),
    ("algorithm of another key", lambda w: w.issuer.token("ec", header={"kid": "rsa"}), REJECTED),
    ("key unknown", lambda w: w.issuer.token(header={"kid": "none"}), REJECTED),
    ("key id of another key", lambda w: w.issuer.token(header={"kid": "ec"}), REJECTED),
    ("key id missing", lambda w: w.issuer.token(header={"kid": ""}), REJECTED),
    ("key id not a string", lambda w: changed(w.issuer.token(), header={"kid": 5}), REJECTED),
    ("signed by another key", lambda w: w.issuer.token(signer=w.attacker.keys["rsa"]), REJECTED),
    (
        "key in the header (`jwk`)",
        lambda w: w.issuer.token(
            signer=w.attacker.keys["rsa"],
            header={"jwk": public_jwk(w.attacker.keys["rsa"], "rsa")},
        ),
        REJECTED,
    ),
    (
        "address of keys in the header (`jku`)",
        lambda w: w.issuer.token(
            signer=w.attacker.keys["rsa"], header={"jku": f"{w.attacker.url}/keys"}
        ),
        REJECTED,
    ),
    (
        "address of a certificate in the header (`x5u`)",
        lambda w: w.issuer.token(
            signer=w.attacker.keys["rsa"], header={"x5u": f"{w.attacker.url}/keys"}
        ),
        REJECTED,
    ),
    ("critical extension", lambda w: w.issuer.token(header={"crit": ["x"], "x": 1}), REJECTED),
    ("issuer unknown", lambda w: w.attacker.token(), REJECTED),
    ("issuer with a trailing slash", lambda w: w.issuer.token(iss=f"{w.issuer.url}/"), REJECTED),
    ("issuer missing", lambda w: w.issuer.token(iss=None), REJECTED),
    ("audience of another service", lambda w: w.issuer.token(aud="billing"), REJECTED),
    ("audience missing", lambda w: w.issuer.token(aud=None), REJECTED),
    ("expired", lambda w: w.issuer.token(exp=later(-60)), REJECTED),
    ("expiry missing", lambda w: w.issuer.token(exp=None), REJECTED),
    ("expiry infinite", lambda w: w.issuer.token(exp=float("inf")), REJECTED),
    ("not yet valid", lambda w: w.issuer.token(nbf=later(60)), REJECTED),
    ("issued in the future", lambda w: w.issuer.token(iat=later(60)), REJECTED),
    ("tampered claims", lambda w: changed(w.issuer.token(), roles=["admin"]), REJECTED),
    ("tampered header", lambda w: changed(w.issuer.token(), header={"typ": "x"}), REJECTED),
    ("tampered signature", lambda w: with_flipped_bit(w.issuer.token()), REJECTED),
    ("signature missing", lambda w: w.issuer.token().rpartition(".")[0] + ".", REJECTED),
    ("signature of another token", with_foreign_signature, REJECTED),
    ("encrypted (JWE)", lambda w: w.issuer.token() + ".AAAA.AAAA", REJECTED),
    ("not a token", lambda _: "AAAA.AAAA.AAAA", REJECTED),
    ("deeply nested", lambda _: f"{encode_part(b'[' * 2900)}.AAAA.AAAA", REJECTED),
    ("role unknown", lambda w: w.issuer.token(roles=["owner"]), REJECTED),
    ("role missing", lambda w: w.issuer.token(roles=None), REJECTED),
    ("role above the limit of the issuer", lambda w: w.issuer.token(roles="platform"), REJECTED),
    ("tenant missing", lambda w: w.issuer.token(tenant=None), REJECTED),
    ("tenant of another issuer", lambda w: w.issuer.token(tenant="acme"), REJECTED),
    ("tenant that does not exist", lambda w: w.issuer.token(tenant="closed"), FORBIDDEN),
    ("scope unknown", lambda w: w.issuer.token(scope=["jobs:everything"]), REJECTED),
    ("scope without entries", lambda w: w.issuer.token(scope=[]), REJECTED),
    ("scope missing", lambda w: w.issuer.token(scope=None), REJECTED),
    ("scope without this right", lambda w: w.issuer.token(scope=["jobs:cancel"]), FORBIDDEN),
    ("name missing", lambda w: w.issuer.token(sub=None), REJECTED),
]


async def revoked_signing_key(credentials: Credentials) -> str:
    """Return a token signed with a deleted key of this installation."""
    key_id, seed = new_signing_key(credentials.installation.secret)
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return await own_token(credentials, key_id, key)


async def own_token(
    credentials: Credentials, key_id: str, key: Any, *, algorithm: str = "EdDSA", **claims: Any
) -> str:
    """Return a token with valid claims, signed by the given key."""
    valid = decode_part((await credentials.user_token()).split(".")[1])
    return jwt.encode({**valid, **claims}, key, algorithm=algorithm, headers={"kid": key_id})


async def of_another_installation(credentials: Credentials) -> str:
    other = Installation(id=uuid4(), secret=os.urandom(32))
    key_id, seed = new_signing_key(other.secret)
    return await own_token(credentials, key_id, Ed25519PrivateKey.from_private_bytes(seed))


async def own_signed(credentials: Credentials, **claims: Any) -> str:
    return await own_token(credentials, *await credentials.signing_key(), **claims)


async def own_with_foreign_signature(credentials: Credentials) -> str:
    key_id, _ = await credentials.signing_key()
    return await own_token(credentials, key_id, credentials.attacker.keys["ed"])


async def own_unsigned(credentials: Credentials) -> str:
    return unsigned(await credentials.user_token(), "none")


async def own_hmac(credentials: Credentials) -> str:
    _, key = await credentials.signing_key()
    return hmac_signed(await credentials.user_token(), key.public_key().public_bytes_raw())


async def own_tampered(credentials: Credentials) -> str:
    return changed(await credentials.user_token(), role="platform")


async def issuer_token_with_own_key_id(credentials: Credentials) -> str:
    key_id, _ = await credentials.signing_key()
    return credentials.issuer.token("ed", header={"kid": key_id})


async def own_token_signed_by_issuer(credentials: Credentials) -> str:
    return credentials.issuer.token("ed", iss=f"headrace:{credentials.installation.id}")


async def changed_user(credentials: Credentials) -> str:
    token = await credentials.user_token(name="eve")
    await credentials.change(token, kind=PrincipalKind.USER, subject="eve")
    return token


async def ended_session(credentials: Credentials) -> str:
    token = await credentials.user_token(credential="ended")
    await credentials.change(token, kind=PrincipalKind.USER, subject="ended")
    return token


async def expired_user(credentials: Credentials) -> str:
    return await credentials.user_token(expire_time=time.time() - 1)


async def minted(credentials: Credentials) -> str:
    return await credentials.watch_token(credentials.admin)


async def minted_by_revoked_key(credentials: Credentials) -> str:
    key = await add_api_key(credentials.database, Role.OPERATOR, principal="service")
    token = await credentials.watch_token(bearer(key))
    await credentials.revoke(key, token)
    return token


async def minted_without_access_control(credentials: Credentials) -> str:
    valid = decode_part((await minted(credentials)).split(".")[1])
    return await own_signed(
        credentials, **{**valid, "minter": {**valid["minter"], "kind": "anonymous"}}
    )


OWN: list[tuple[str, Make, str]] = [
    ("valid, of a user", lambda w: w.user_token(), OK),
    ("algorithm `none`", own_unsigned, REJECTED),
    ("HS256 with the public key as the secret", own_hmac, REJECTED),
    ("signed by another key", own_with_foreign_signature, REJECTED),
    ("signed by a revoked key", revoked_signing_key, REJECTED),
    ("of another installation", of_another_installation, REJECTED),
    ("tampered claims", own_tampered, REJECTED),
    ("expired", expired_user, REJECTED),
    ("expiry missing", lambda w: own_signed(w, exp=None), REJECTED),
    ("audience of another service", lambda w: own_signed(w, aud="billing"), REJECTED),
    ("issuer of another service", lambda w: own_signed(w, iss="https://x"), REJECTED),
    ("principal kind without such tokens", lambda w: own_signed(w, kind="api_key"), REJECTED),
    ("role unknown", lambda w: own_signed(w, role="owner"), REJECTED),
    ("scope unknown", lambda w: own_signed(w, scope=["x"]), REJECTED),
    (
        "of an external issuer, with the key id of this installation",
        issuer_token_with_own_key_id,
        REJECTED,
    ),
    ("of this installation, signed by an external issuer", own_token_signed_by_issuer, REJECTED),
    ("of a user who was changed or disabled", changed_user, REJECTED),
    ("of an ended session", ended_session, REJECTED),
    ("refresh token instead of an access token", lambda w: w.log_in("eve"), REJECTED),
    ("watch token, valid", minted, OK),
    ("watch token of a revoked API key", minted_by_revoked_key, REJECTED),
    ("watch token minted without access control", minted_without_access_control, REJECTED),
]


async def revoked_key(credentials: Credentials) -> str:
    key = await add_api_key(credentials.database, Role.VIEWER)
    await credentials.revoke(key, key)
    return key


async def expired_key(credentials: Credentials) -> str:
    return await add_api_key(
        credentials.database, Role.VIEWER, expire_time=datetime.now(UTC) - timedelta(seconds=1)
    )


async def key_with_other_secret(credentials: Credentials) -> str:
    key = await add_api_key(credentials.database, Role.VIEWER)
    return key[:-1] + ("a" if key[-1] != "a" else "b")


API_KEYS: list[tuple[str, Make, str]] = [
    ("valid", lambda w: add_api_key(w.database, Role.VIEWER), OK),
    ("never created", lambda w: new_api_key(w.installation.secret).text, REJECTED),
    ("of another installation", lambda _: new_api_key(os.urandom(32)).text, REJECTED),
    ("another secret", key_with_other_secret, REJECTED),
    ("expired", expired_key, REJECTED),
    ("revoked", revoked_key, REJECTED),
    ("malformed", lambda _: "hr_a_b", REJECTED),
]


async def replaced_refresh_token(credentials: Credentials) -> str:
    first = await credentials.log_in()
    second = await credentials.refresh(first)
    await credentials.refresh(second)
    return first


async def refresh_token_of_stolen_session(credentials: Credentials) -> str:
    first = await credentials.log_in()
    third = await credentials.refresh(await credentials.refresh(first))
    with pytest.raises(grpc.aio.AioRpcError):
        await credentials.refresh(first)
    return third


async def refresh_token_after_logout(credentials: Credentials) -> str:
    token = await credentials.log_in()
    await credentials.sessions.Logout(LogoutRequest(refresh_token=token))
    return token


async def refresh_token_of_disabled_user(credentials: Credentials) -> str:
    token = await credentials.log_in("disabled")
    await credentials.users.UpdateUser(
        UpdateUserRequest(name="disabled", disabled=True), metadata=credentials.admin
    )
    return token


REFRESH_TOKENS: list[tuple[str, Make, str]] = [
    ("valid", lambda w: w.log_in(), OK),
    ("used twice, after its replacement was used", replaced_refresh_token, REJECTED),
    ("newest one, after an earlier one was used twice", refresh_token_of_stolen_session, REJECTED),
    ("of a session after logout", refresh_token_after_logout, REJECTED),
    ("of a disabled user", refresh_token_of_disabled_user, REJECTED),
    (
        "of an unknown session",
        lambda w: new_refresh_token(uuid4()).text(w.installation.secret),
        REJECTED,
    ),
    (
        "of another installation",
        lambda _: new_refresh_token(uuid4()).text(os.urandom(32)),
        REJECTED,
    ),
    ("access token instead of a refresh token", lambda w: w.user_token(), REJECTED),
]

MATRIX = {
    "Token of an issuer": ISSUER,
    "Token of this installation": OWN,
    "API key": API_KEYS,
    "Refresh token": REFRESH_TOKENS,
}


def test_table_in_the_docs_equals_the_matrix() -> None:
    lines = ["| Credential | Case | Result |\n", "|---|---|---|\n"]
    for kind, rows in MATRIX.items():
        lines += [f"| {kind} | {case} | {result} |\n" for case, _, result in rows]
    document = DOCS.read_text()
    before, _, remainder = document.partition(BEGIN)
    _, _, after = remainder.partition(END)
    expected = before + BEGIN + "".join(lines) + END + after
    if os.environ.get("HEADRACE_TEST_WRITE_DOCS"):
        DOCS.write_text(expected)
    assert document == expected, "run this test with HEADRACE_TEST_WRITE_DOCS=1"


@pytest.mark.parametrize("kind", MATRIX)
async def test_credential_has_the_result_in_the_matrix(
    kind: str, credentials: Credentials, jobs: JobServiceStub, subtests: pytest.Subtests
) -> None:
    for case, make, expected in MATRIX[kind]:
        with subtests.test(case=case):
            credential_value = make(credentials)
            credential = (
                credential_value if isinstance(credential_value, str) else await credential_value
            )
            if kind == "Refresh token":
                call = credentials.refresh(credential)
            else:
                call = jobs.GetStats(GetStatsRequest(), metadata=bearer(credential))
            assert await result(call, credential) == expected
    # A gateway never fetches keys from a URL in a token.
    assert credentials.attacker.requests == []


async def result(call: Awaitable[object], credential: str) -> str:
    """Return the result of a call with a credential."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        detail = read_error(error)
        # No error contains the credential or a part of it.
        assert credential not in detail.message
        assert not credential.count(".") or credential.split(".")[1] not in detail.message
        return error.code().name
    return OK


async def test_watch_token_cannot_change_data(
    credentials: Credentials, jobs: JobServiceStub
) -> None:
    token = await minted(credentials)
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await jobs.SubmitJob(
            SubmitJobRequest(job=JobSpec(type="email", labels={"user": "42"})),
            metadata=bearer(token),
        )
    assert excinfo.value.code() is grpc.StatusCode.PERMISSION_DENIED
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await credentials.access.MintWatchToken(
            MintWatchTokenRequest(labels={"user": "42"}), metadata=bearer(token)
        )
    assert excinfo.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer "),),
        (("authorization", "Basic YWRhOmFkYQ=="),),
        (("authorization", "Bearer a"), ("authorization", "Bearer b")),
        (("authorization", "Bearer " + "a" * 8200),),
    ],
)
async def test_header_without_exactly_one_bearer_is_rejected(
    metadata: Metadata, jobs: JobServiceStub, credentials: Credentials
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as excinfo:
        await jobs.GetStats(GetStatsRequest(), metadata=metadata)
    assert excinfo.value.code() is grpc.StatusCode.UNAUTHENTICATED
