"""F27: API keys and signing keys are rotated and revoked under load."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from contextlib import AsyncExitStack

from grpc import aio

from faults.cluster import Plan
from faults.evidence import StreamFilter
from faults.other_tenant import submit_jobs_of_other_tenant
from faults.principals import Gateway, Principal, bearer, open_stream, seconds_until_rejected
from faults.scenario import Scenario
from faults.trial import Trial
from headrace.v1 import access_service_pb2
from headrace_core.domain.access import Principal as DomainPrincipal
from headrace_core.domain.access import PrincipalKind, Role
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.domain.signing_key import MAX_TOKEN_LIFETIME
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.access.changes import read_version
from headrace_core.store.access.signing_keys import rotate_signing_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import read_installation
from headrace_gateway.access.signing import InstallationTokens
from support.access import add_api_key

SERVICES = 4
PEOPLE = 2
REVOKED_WITHIN_S = 5.0
# Longest wait for a revocation, in seconds.
_MAX_REVOCATION_WAIT_S = 20.0
_STEADY_S = 5.0


class _CredentialAdmin:
    """Manages the credentials of the trial as an admin, and measures revocations."""

    def __init__(self, database: Database, gateways: list[Gateway], admin: str) -> None:
        self.database = database
        self.gateways = gateways
        self._metadata = bearer(admin)
        self.revocations: list[float] = []
        self.stream_ends: list[float] = []
        self.stream_codes: set[str] = set()

    async def create(self, name: str, rng: random.Random) -> tuple[str, str]:
        """Create a key; return it and its id."""
        created = await rng.choice(self.gateways).access.CreateApiKey(
            access_service_pb2.CreateApiKeyRequest(
                principal=name, role=access_service_pb2.ROLE_OPERATOR
            ),
            metadata=self._metadata,
        )
        return created.secret, created.api_key.id

    async def revoke(self, credential: str, key_id: str, rng: random.Random) -> None:
        """Revoke a key, and measure the time until all gateways reject it and its streams end."""
        streams = [await open_stream(gateway, credential) for gateway in self.gateways]
        began = time.monotonic()
        await rng.choice(self.gateways).access.RevokeApiKey(
            access_service_pb2.RevokeApiKeyRequest(id=key_id), metadata=self._metadata
        )
        await self._measure(credential, streams, began)

    async def _measure(
        self, credential: str, streams: list[asyncio.Task[tuple[str, float]]], began: float
    ) -> None:
        self.revocations.append(
            await seconds_until_rejected(self.gateways, credential, within=_MAX_REVOCATION_WAIT_S)
        )
        done, pending = (
            await asyncio.wait(streams, timeout=_MAX_REVOCATION_WAIT_S)
            if streams
            else (set(), set())
        )
        for stream in done:
            code, ended = stream.result()
            self.stream_codes.add(code)
            self.stream_ends.append(ended - began)
        for stream in pending:
            stream.cancel()
            self.stream_ends.append(math.nan)

    async def revoke_signing_keys(self, tokens: list[str]) -> None:
        """Revoke all signing keys, and measure the time until all gateways reject the tokens."""
        streams = [
            await open_stream(gateway, token) for gateway in self.gateways for token in tokens
        ]
        began = time.monotonic()
        async with self.database.transaction() as conn:
            await rotate_signing_key(conn, revoke=True)
        for token in tokens:
            await self._measure(token, streams, began)
            streams = []


async def run(trial: Trial) -> None:
    async with AsyncExitStack() as stack:
        database = Database(trial.cluster.settings, application="trial")
        stack.push_async_callback(database.close)
        channels = [
            await stack.enter_async_context(aio.insecure_channel(target))
            for target in trial.cluster.targets
        ]
        gateways = [Gateway(channel) for channel in channels]
        keys = _CredentialAdmin(database, gateways, await add_api_key(database, Role.ADMIN))
        services = []
        for number in range(SERVICES):
            secret, key_id = await keys.create(f"service-{number}", trial.rng)
            services.append(Principal(f"service-{number}", secret, gateways, credential_id=key_id))
        async with database.statement() as conn:
            installation = await read_installation(conn)
        issuer = InstallationTokens(database=database, installation=installation)
        people = [
            Principal(f"person-{number}", await _token(issuer, database, number), gateways)
            for number in range(PEOPLE)
        ]
        for principal in (*services, *people):
            watchers = trial.add_watchers(metadata=principal.metadata)
            watchers.follow(principal.name, StreamFilter(labels={"load": principal.name}))
            await watchers.wait_until_live()
            principal.start()
            stack.push_async_callback(principal.stop)
        # Another tenant's jobs with the same labels.
        other_tenant = asyncio.create_task(
            submit_jobs_of_other_tenant(
                trial.cluster.settings,
                load=services[0].name,
                rng=random.Random(trial.rng.random()),
            )
        )
        stack.push_async_callback(end_tasks, other_tenant)
        await asyncio.sleep(_STEADY_S)
        async with trial.fault("keys are rotated"):
            for _ in range(8 if trial.short else 20):
                service = trial.rng.choice(services)
                old, old_id = service.credential, service.credential_id
                secret, key_id = await keys.create(service.name, trial.rng)
                await service.use(secret, credential_id=key_id)
                await keys.revoke(old, old_id, trial.rng)
        async with trial.fault("the signing key is rotated"):
            async with database.transaction() as conn:
                await rotate_signing_key(conn)
            issuer.forget(None)
            for number, person in enumerate(people):
                await person.use(await _token(issuer, database, number))
            await asyncio.sleep(_STEADY_S)
        _judge_calls(trial, [*services, *people])
        async with trial.fault("the signing keys are revoked"):
            for person in people:
                await person.stop()
            await keys.revoke_signing_keys([person.credential for person in people])
            issuer.forget(None)
            for number, person in enumerate(people):
                # The streams of the people resume with the new tokens.
                person.credential = await _token(issuer, database, number)
        await asyncio.sleep(_STEADY_S)
        trial.figure("revoked credentials", len(keys.revocations), at_least=5)
        trial.figure(
            "slowest revocation of a credential",
            _slowest(keys.revocations),
            "s",
            at_most=REVOKED_WITHIN_S,
        )
        trial.figure(
            "slowest end of a stream with a revoked credential",
            _slowest(keys.stream_ends),
            "s",
            at_most=REVOKED_WITHIN_S,
        )
        others = sorted(keys.stream_codes - {"UNAUTHENTICATED"})
        trial.figure(
            f"statuses of ended streams except UNAUTHENTICATED: {', '.join(others) or 'none'}",
            len(others),
            at_most=0,
        )


def _judge_calls(trial: Trial, principals: list[Principal]) -> None:
    failures = sum((principal.failures for principal in principals), start=Counter[str]())
    rejected = failures["UNAUTHENTICATED"] + failures["PERMISSION_DENIED"]
    calls = sum(principal.calls for principal in principals)
    trial.figure("calls with a valid credential", calls, at_least=500)
    trial.figure("valid calls that were rejected", rejected, at_most=0)
    trial.figure("valid calls that failed otherwise", failures.total() - rejected, at_most=0)


def _slowest(times: list[float]) -> float:
    """Return the longest time; NaN if one is missing."""
    return math.nan if any(map(math.isnan, times)) else max(times)


async def _token(issuer: InstallationTokens, database: Database, number: int) -> str:
    """Return a token like the one that a login issues."""
    async with database.statement() as conn:
        version = await read_version(conn)
    principal = DomainPrincipal.of(
        name=f"person-{number}",
        tenant=DEFAULT_TENANT,
        kind=PrincipalKind.USER,
        role=Role.OPERATOR,
        expire_time=time.time() + MAX_TOKEN_LIFETIME.total_seconds() - 1,
    )
    return await issuer.issue(principal, version=version)


SCENARIO = Scenario(
    id="F27",
    title="API keys and signing keys are rotated and revoked under load",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    plan=Plan(settings={"access_control": True}),
    usual=60,
    usual_short=50,
)
