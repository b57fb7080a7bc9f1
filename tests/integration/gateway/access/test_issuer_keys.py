"""The keys of an issuer: discovery, cache, refresh, and unreachable issuers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from headrace.v1.job_service_pb2 import WATCH_MARK_CAUGHT_UP, GetStatsRequest, WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.errors import Unauthenticated, Unavailable
from headrace_core.runtime.settings import Settings
from headrace_gateway.access.issuer_settings import Issuer
from headrace_gateway.access.jwks import FetchFailed, HttpFetch, KeySet, parse_jwks
from headrace_gateway.service import Gateway
from support.access import bearer
from support.clock import Clock
from support.gateway import TIMEOUT, rpc_error
from support.issuer import AUDIENCE, LocalIssuer, public_jwk, running_issuer

DISCOVERY = "/.well-known/openid-configuration"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    with running_issuer() as issuer:
        yield issuer


KeySets = Callable[..., KeySet]


@pytest.fixture
def key_set(issuer: LocalIssuer, clock: Clock) -> KeySets:
    def create(**fields: object) -> KeySet:
        settings = {"issuer": issuer.url, "audience": AUDIENCE, "tenant": "acme", "role": "viewer"}
        return KeySet(Issuer.model_validate({**settings, **fields}), clock=clock)

    return create


async def test_keys_are_discovered_and_cached(issuer: LocalIssuer, key_set: KeySets) -> None:
    keys = key_set()
    for key_id, algorithm in (("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA"), ("rsa", "PS512")):
        [key] = await keys.find(key_id, algorithm)
        assert key.key == issuer.keys[key_id].public_key()
    assert issuer.requests == [DISCOVERY, "/keys"]


async def test_key_is_rejected_for_another_algorithm(issuer: LocalIssuer, key_set: KeySets) -> None:
    keys = key_set()
    for key_id, algorithm in (("rsa", "ES256"), ("ec", "RS256"), ("ec", "ES512"), ("ed", "RS256")):
        with pytest.raises(Unauthenticated):
            await keys.find(key_id, algorithm)
    assert issuer.requests.count("/keys") == 1


async def test_concurrent_calls_share_one_read(issuer: LocalIssuer, key_set: KeySets) -> None:
    keys = key_set(jwks=f"{issuer.url}/keys")
    await asyncio.gather(*(keys.find("rsa", "RS256") for _ in range(20)))
    assert issuer.requests == ["/keys"]


async def test_unknown_key_ids_cause_a_limited_number_of_reads(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    keys = key_set(jwks=f"{issuer.url}/keys")
    await keys.refresh()
    for key_id in ("one", "two", "three", "four", "one", "four"):
        with pytest.raises(Unauthenticated):
            await keys.find(key_id, "EdDSA")
    assert len(issuer.requests) == 5
    # The read limit is reached, so the gateway cannot check whether the issuer has published this
    # key.
    with pytest.raises(Unavailable):
        await keys.find("five", "EdDSA")
    assert len(issuer.requests) == 5
    clock.now += 5
    with pytest.raises(Unauthenticated):
        await keys.find("five", "EdDSA")
    assert len(issuer.requests) == 6


async def test_new_key_is_found_before_the_next_refresh(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    keys = key_set()
    await keys.find("rsa", "RS256")
    issuer.add_key("new")
    [key] = await keys.find("new", "EdDSA")
    assert key.key == issuer.keys["new"].public_key()


async def test_refresh_drops_a_removed_key(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    keys = key_set(refresh=60)
    assert await keys.refresh() == 60
    issuer.published["rsa"] = False
    clock.now += 60
    await keys.refresh()
    with pytest.raises(Unauthenticated):
        await keys.find("rsa", "RS256")


async def test_removed_key_ends_the_streams_of_its_cached_tokens(
    issuer: LocalIssuer, settings: Settings
) -> None:
    gateway = Gateway(
        settings.model_copy(update={"access_control": True, "issuers": issuer.setting()})
    )
    await gateway.start()
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        ):
            jobs = JobServiceStub(channel)
            removed, kept = bearer(issuer.token("ed")), bearer(issuer.token("ec"))
            stream = jobs.WatchJobs(WatchJobsRequest(), metadata=removed)
            other_stream = jobs.WatchJobs(WatchJobsRequest(), metadata=kept)
            assert (await stream.read()).mark == WATCH_MARK_CAUGHT_UP
            assert (await other_stream.read()).mark == WATCH_MARK_CAUGHT_UP

            issuer.published["ed"] = False
            issuer.add_key("new")
            # The gateway reads the keys because of the unknown key.
            await jobs.GetStats(GetStatsRequest(), metadata=bearer(issuer.token("new")))

            assert (await rpc_error(stream.read())).reason == "CREDENTIAL_CHANGED"
            rejection = await rpc_error(jobs.GetStats(GetStatsRequest(), metadata=removed))
            assert rejection.code is grpc.StatusCode.UNAUTHENTICATED
            await jobs.GetStats(GetStatsRequest(), metadata=kept)
            assert not other_stream.done()
    finally:
        await gateway.stop()


async def test_keys_of_unreachable_issuer_are_used_until_max_stale(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    keys = key_set(refresh=60, max_stale=600)
    await keys.find("rsa", "RS256")
    issuer.status = 503
    clock.now += 60
    # The retry comes earlier than the next refresh.
    assert await keys.refresh() == 10
    clock.now += 540
    await keys.find("rsa", "RS256")
    clock.now += 1
    with pytest.raises(Unavailable):
        await keys.find("rsa", "RS256")
    issuer.status = 200
    clock.now += 5
    await keys.find("rsa", "RS256")


async def test_calls_to_an_unreachable_issuer_are_limited(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    issuer.status = 500
    keys = key_set(jwks=f"{issuer.url}/keys")
    for _ in range(10):
        with pytest.raises(Unavailable):
            await keys.find("rsa", "RS256")
    assert len(issuer.requests) == 4


async def test_invalid_key_set_keeps_the_cached_keys(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock, subtests: pytest.Subtests
) -> None:
    keys = key_set(refresh=60)
    await keys.find("rsa", "RS256")
    for document in (b"{", b"[]", b"{}", b'{"keys": 1}', b"[" * 100_000, b" " * 300_000):
        with subtests.test(document=document[:20]):
            issuer.document = document
            clock.now += 60
            await keys.refresh()
            await keys.find("rsa", "RS256")


async def test_redirect_is_not_followed(issuer: LocalIssuer, key_set: KeySets) -> None:
    issuer.status = 302
    with pytest.raises(Unavailable):
        await key_set(jwks=f"{issuer.url}/keys").find("rsa", "RS256")
    assert issuer.requests == ["/keys"]


@pytest.mark.parametrize(
    "discovery",
    [
        {"issuer": "https://attacker.example"},
        {"jwks_uri": "http://attacker.example/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
    ],
)
async def test_discovery_document_with_invalid_urls_is_rejected(
    issuer: LocalIssuer, key_set: KeySets, discovery: dict[str, object]
) -> None:
    issuer.discovery = discovery
    with pytest.raises(Unavailable):
        await key_set().find("rsa", "RS256")
    assert issuer.requests == [DISCOVERY]


async def test_changed_key_file_is_reread(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps(issuer.jwks()))
    keys = key_set(jwks=str(file))
    await keys.find("rsa", "RS256")
    issuer.add_key("new")
    file.write_text(json.dumps(issuer.jwks()))
    await keys.find("new", "EdDSA")
    file.unlink()
    clock.now += 300
    await keys.refresh()
    await keys.find("new", "EdDSA")


async def test_token_without_key_id_needs_a_single_key(
    issuer: LocalIssuer, key_set: KeySets, clock: Clock
) -> None:
    keys = key_set(refresh=60)
    with pytest.raises(Unauthenticated):
        await keys.find("", "RS256")
    issuer.published = {"rsa": False, "ec": False, "ed": True}
    clock.now += 60
    await keys.refresh()
    [key] = await keys.find("", "EdDSA")
    assert key.key == issuer.keys["ed"].public_key()


async def test_issuer_with_untrusted_certificate_is_rejected(tmp_path: Path) -> None:
    with running_issuer(tmp_path) as issuer:
        assert json.loads(await HttpFetch(issuer.ca)(f"{issuer.url}/keys")) == issuer.jwks()
        with pytest.raises(FetchFailed, match="ConnectError"):
            await HttpFetch()(f"{issuer.url}/keys")


def test_unsuitable_keys_are_ignored(issuer: LocalIssuer) -> None:
    valid, short = issuer.keys["rsa"], rsa.generate_private_key(65537, 1024)
    entries = [
        public_jwk(valid, "good"),
        public_jwk(short, "short"),
        public_jwk(valid, "encryption", use="enc"),
        public_jwk(valid, "operations", key_ops=["encrypt"]),
        public_jwk(valid, "hmac", alg="HS256"),
        public_jwk(valid, "none", alg="none"),
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "incomplete"},
        {"kty": 5, "kid": "malformed"},
        "text",
    ]
    assert list(parse_jwks(json.dumps({"keys": entries}).encode())) == ["good"]
