"""F27: API keys, signing keys and the keys of an issuer are rotated and revoked under load."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack

from grpc import aio

from faults.cluster import Plan
from faults.evidence import StreamFilter
from faults.other_tenant import submit_jobs_of_other_tenant
from faults.principals import (
    CALL_S,
    Gateway,
    Principal,
    bearer,
    open_stream,
    seconds_until_rejected,
)
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
# Principals with tokens of an external issuer.
GUESTS = 2
# Seconds between two reads of the issuer's keys.
REFRESH_S = 2.0
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
        for code, seconds in await _stream_ends(streams, began):
            self.stream_codes.add(code)
            self.stream_ends.append(seconds)

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
        guests = _Guests(trial, gateways)
        for principal in (*services, *people, *guests.principals):
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
        await guests.rotate_keys()
        await guests.lose_issuer()
        _judge_calls(trial, [*services, *people, *guests.principals])
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


class _Guests:
    """Principals with tokens of an external issuer.

    Attributes:
        principals: the principals.
    """

    def __init__(self, trial: Trial, gateways: list[Gateway]) -> None:
        assert trial.cluster.issuer is not None
        assert trial.cluster.issuer_link is not None
        self._trial = trial
        self._issuer = trial.cluster.issuer
        self._link = trial.cluster.issuer_link
        self._gateways = gateways
        self._key = "ed"
        self.principals = [
            Principal(f"guest-{number}", self._token(number), gateways) for number in range(GUESTS)
        ]

    async def rotate_keys(self) -> None:
        """Replace the issuer's key, and measure when the gateways accept and reject its tokens."""
        accepted: list[float] = []
        rejected: list[float] = []
        stream_ends: list[float] = []
        async with self._trial.fault("the issuer rotates its keys"):
            for number in range(1 if self._trial.short else 3):
                old_key = self._key
                cached = self._token(0)
                streams = [await open_stream(gateway, cached) for gateway in self._gateways]
                accepted.append(await self._use_new_key(f"rotated-{number}"))
                began = time.monotonic()
                self._issuer.published[old_key] = False
                rejected += await asyncio.gather(
                    self._seconds_until(old_key, accepted=False),
                    seconds_until_rejected(self._gateways, cached, within=_MAX_REVOCATION_WAIT_S),
                )
                stream_ends += [seconds for _, seconds in await _stream_ends(streams, began)]
        self._trial.figure(
            "slowest acceptance of a new key of the issuer", _slowest(accepted), "s", at_most=5.0
        )
        self._trial.figure(
            "slowest rejection of a removed key of the issuer",
            _slowest(rejected),
            "s",
            at_most=REFRESH_S + 3.0,
        )
        self._trial.figure(
            "slowest end of a stream with a removed key of the issuer",
            _slowest(stream_ends),
            "s",
            at_most=REFRESH_S + 3.0,
        )

    async def lose_issuer(self) -> None:
        """Cut off the issuer: its known keys stay valid, and a new one counts once it is back."""
        async with self._trial.fault("the issuer is unreachable"):
            await self._link.cut()
            began = time.monotonic()
            while time.monotonic() - began < 2 * _STEADY_S:
                for number, guest in enumerate(self.principals):
                    await guest.use(self._token(number))
                await asyncio.sleep(1.0)
            self._issuer.add_key("late")
            code = await _code(self._gateways[0], self._token(0, key="late"))
            self._trial.figure(
                f"status of a token of an unknown key except UNAVAILABLE: {code}",
                code != "UNAVAILABLE",
                at_most=0,
            )
            await self._link.start()
            self._trial.figure(
                "time until the returned issuer's new key is accepted",
                await self._use_new_key("late"),
                "s",
                at_most=_MAX_REVOCATION_WAIT_S,
            )

    async def _use_new_key(self, key: str) -> float:
        """Sign with a key, and return the seconds until all gateways accept its tokens."""
        if key not in self._issuer.keys:
            self._issuer.add_key(key)
        self._key = key
        seconds = await self._seconds_until(key, accepted=True)
        for number, guest in enumerate(self.principals):
            await guest.use(self._token(number))
        return seconds

    async def _seconds_until(self, key: str, *, accepted: bool) -> float:
        """Return the seconds until all gateways accept or reject new tokens of a key."""
        began = time.monotonic()
        for gateway in self._gateways:
            while (await _code(gateway, self._token(0, key=key)) == "OK") != accepted:
                if time.monotonic() - began > _MAX_REVOCATION_WAIT_S:
                    return math.nan
                await asyncio.sleep(0.1)
        return time.monotonic() - began

    def _token(self, number: int, *, key: str = "") -> str:
        # Each token is new, so that no gateway has cached it.
        return self._issuer.token(key or self._key, sub=f"guest-{number}", jti=os.urandom(8).hex())


async def _stream_ends(
    streams: list[asyncio.Task[tuple[str, float]]], began: float
) -> list[tuple[str, float]]:
    """Return the status code of each stream, and the seconds until its end; NaN if it is open."""
    if not streams:
        return []
    done, pending = await asyncio.wait(streams, timeout=_MAX_REVOCATION_WAIT_S)
    for stream in pending:
        stream.cancel()
    ends = [stream.result() for stream in done]
    return [(code, end - began) for code, end in ends] + [("OPEN", math.nan)] * len(pending)


async def _code(gateway: Gateway, credential: str) -> str:
    """Return the status code of a call."""
    try:
        await gateway.access.WhoAmI(
            access_service_pb2.WhoAmIRequest(), metadata=bearer(credential), timeout=CALL_S
        )
    except aio.AioRpcError as error:
        return error.code().name
    return "OK"


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
    title="API keys, signing keys and the keys of an issuer are rotated and revoked under load",
    shows=("I1", "I2", "I3", "I4", "I7"),
    run=run,
    plan=Plan(settings={"access_control": True}, issuer={"refresh": REFRESH_S}),
    usual=110,
    usual_short=60,
)
