"""The use cases of access control: the principal of a call, and the API keys of a tenant."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import structlog

from headrace_core.domain.access import (
    MAX_SCOPE_ENTRIES,
    RIGHTS,
    ApiKey,
    Minter,
    Principal,
    PrincipalKind,
    Right,
    Role,
    Scope,
    parse_scope,
)
from headrace_core.domain.api_key import new_api_key
from headrace_core.domain.errors import PermissionDenied, Violation
from headrace_core.domain.query import JobFilter
from headrace_core.domain.repeatable import secret_seed
from headrace_core.domain.signing_key import MAX_TOKEN_LIFETIME
from headrace_core.store.access.keys import create_api_key, list_api_keys, revoke_api_key
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.wake import Topic, WakeBus
from headrace_gateway.access.audit import record_audit
from headrace_gateway.access.signing import InstallationTokens
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import (
    Violations,
    check_labels,
    check_principal,
    check_secret_request_id,
    page_limit,
    parse_batch_id,
    parse_job_id,
)
from headrace_gateway.api.visibility import narrow_filter
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

_KEYS: Final = "api keys"
# The default lifetime of a watch token.
_WATCH_LIFETIME: Final = timedelta(minutes=15)
# The longest watch token, in characters. Servers and proxies limit all headers of a call to 8 KiB.
_MAX_WATCH_TOKEN: Final = 4096


class IssuedKey(NamedTuple):
    """A new key, and the complete key with its secret."""

    key: ApiKey
    secret: str


class WatchToken(NamedTuple):
    """A new watch token."""

    principal: Principal
    text: str


class Access:
    """The use cases of API keys and watch tokens.

    Args:
        database: the store of the keys.
        installation: signs keys and page tokens, and makes the secrets of repeatable requests.
        tokens: signs watch tokens.
        bus: wakes the gateways after each change.
    """

    def __init__(
        self,
        *,
        database: Database,
        installation: Installation,
        tokens: InstallationTokens,
        bus: WakeBus,
    ) -> None:
        self._database = database
        self._installation = installation
        self._tokens = tokens
        self._bus = bus

    async def create_key(
        self,
        call: Call,
        *,
        principal: str,
        role: Role,
        scope: Sequence[str] = (),
        expire_time: datetime | None = None,
        request_id: str = "",
        violations: Sequence[Violation] = (),
    ) -> IssuedKey:
        """Create an API key in the tenant of the call.

        Args:
            call: the call.
            principal: the principal that the key identifies.
            role: the role.
            scope: the entries of the scope; see `parse_scope`.
            expire_time: the time at which the key expires; None for never.
            request_id: the idempotency key, which other callers must not guess; empty for none.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid.
            PermissionDenied: the key would have a right that the caller lacks.
            AccessConflict: the request_id was used with other content or too long ago.
        """
        found = Violations(violations)
        check_principal(principal, found)
        parsed = read_scope(scope, found)
        if expire_time is not None and expire_time <= datetime.now(UTC):
            found.note("expire_time", "must be in the future")
        check_secret_request_id(request_id, found)
        found.check()
        check_grant(call, role, parsed)
        seed = request_seed(self._installation, call, request_id)
        new = new_api_key(self._installation.secret, seed)
        async with self._database.transaction() as conn:
            key = await create_api_key(
                conn,
                key_id=new.id,
                secret_hash=new.secret_hash,
                tenant=call.tenant,
                principal=principal,
                role=role,
                scope=parsed,
                created_by=call.principal.name,
                expire_time=expire_time,
            )
            await record_audit(conn, call, target=f"api key {key.id} of {principal}")
        _log.info("api_key_created", key=key.id, principal=principal, role=role)
        return IssuedKey(key, new.text)

    async def list_keys(
        self, call: Call, page: Page[ApiKey], *, size: int = 0, token: str = ""
    ) -> str:
        """Fill a page with the keys of the tenant, by id.

        Args:
            call: the call.
            page: receives the keys.
            size: the maximum number of keys on the page; 0 for the default.
            token: the token of the page; empty for the first one.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations()
        limit = page_limit(size, found)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of=_KEYS)

        async def read(after: str, wanted: int) -> tuple[Sequence[ApiKey], bool]:
            keys = await list_api_keys(conn, tenant=call.tenant, after=after, limit=wanted + 1)
            return split_page(keys, wanted)

        async with self._database.statement() as conn:
            last = await fill_page(page, read, key=lambda key: key.id, after=after, size=limit)
        return encode_name_token(self._installation, call.tenant, last, of=_KEYS) if last else ""

    async def revoke_key(self, call: Call, key_id: str) -> ApiKey:
        """Revoke a key: gateways reject it within seconds, and end its streams.

        Raises:
            AccessNotFound: the tenant has no such key.
            PermissionDenied: the role of the key has a right that the role of the caller lacks.
        """
        async with self._database.transaction() as conn:
            key = await revoke_api_key(conn, tenant=call.tenant, key_id=key_id)
            # An error rolls the revocation back.
            check_rank(call, key.role, "to revoke a key")
            await record_audit(conn, call, target=f"api key {key.id} of {key.principal}")
        self._bus.publish(Topic.ACCESS)
        _log.info("api_key_revoked", key=key_id)
        return key

    async def mint_watch_token(
        self,
        call: Call,
        *,
        job_id: str = "",
        batch_id: str = "",
        labels: Mapping[str, str] | None = None,
        include_payload: bool = False,
        lifetime: timedelta | None = None,
        violations: Sequence[Violation] = (),
    ) -> WatchToken:
        """Issue a token that can only read some jobs of the tenant.

        The jobs must match each of the arguments, and be within the scope of the caller. Nothing
        is stored. The token expires no later than the credential of the caller.

        Args:
            call: the call.
            job_id: the id of the job; empty for any.
            batch_id: the id of the batch; empty for any.
            labels: labels that the jobs must have.
            include_payload: whether to add the right PAYLOAD_READ.
            lifetime: at most MAX_TOKEN_LIFETIME; None for 15 minutes.
            violations: the violations that the transport found in the request.

        Raises:
            InvalidRequest: an argument is invalid, or the request selects no jobs.
            PermissionDenied: the caller may not read these jobs.
            Unavailable: PostgreSQL did not answer.
        """
        found = Violations(violations)
        job = parse_job_id(job_id, found) if job_id else None
        batch = parse_batch_id(batch_id, found) if batch_id else None
        if not (job_id or batch_id or labels):
            found.note("job_id", "is required, unless batch_id or labels are set")
        check_labels(labels or {}, "labels", found)
        lifetime = _WATCH_LIFETIME if lifetime is None else lifetime
        if not timedelta(seconds=1) <= lifetime <= MAX_TOKEN_LIFETIME:
            found.note("lifetime", "must be between 1 s and 1 h")
        found.check()
        caller = call.principal
        rights = {Right.JOBS_READ, Right.PAYLOAD_READ} if include_payload else {Right.JOBS_READ}
        for right in sorted(rights - caller.rights):
            raise PermissionDenied(right)
        jobs = narrow_filter(
            call,
            JobFilter(
                job_ids=frozenset() if job is None else frozenset({job}),
                batch_id=batch,
                labels=labels or {},
            ),
        )
        scope = Scope(
            rights=frozenset(rights),
            queues=jobs.queues,
            types=jobs.types,
            labels=jobs.labels,
            batch_id=jobs.batch_id,
            job_ids=jobs.job_ids,
        )
        if len(scope.entries()) > MAX_SCOPE_ENTRIES:
            found.note(
                "labels", f"with the scope of the caller, they exceed {MAX_SCOPE_ENTRIES} entries"
            )
            found.check()
        principal = Principal.of(
            name=caller.name,
            tenant=call.tenant,
            kind=PrincipalKind.WATCH_TOKEN,
            role=Role.VIEWER,
            scope=scope,
            credential=secrets.token_hex(8),
            expire_time=_watch_end(caller, lifetime),
            minter=Minter(
                kind=caller.kind,
                tenant=caller.tenant,
                name=caller.name,
                credential=caller.credential,
            ),
        )
        text = await self._tokens.issue(principal, version=caller.version)
        if len(text) > _MAX_WATCH_TOKEN:
            found.note("labels", "are too long for a token")
            found.check()
        async with self._database.transaction() as conn:
            await record_audit(
                conn, call, target=f"watch token {principal.credential} for {_jobs_text(scope)}"
            )
        _log.info("watch_token_minted", token=principal.credential, principal=caller.name)
        return WatchToken(principal, text)


def request_seed(installation: Installation, call: Call, request_id: str) -> bytes | None:
    """Return the seed of the secret that a call creates; None without a request_id."""
    if not request_id:
        return None
    return secret_seed(
        installation.secret,
        method=call.method,
        caller=call.principal,
        tenant=call.tenant,
        request_id=request_id,
    )


def _jobs_text(scope: Scope) -> str:
    """Return the jobs of a scope, for the audit log."""
    return " ".join(entry for entry in scope.entries() if entry not in scope.rights)


def _watch_end(caller: Principal, lifetime: timedelta) -> float:
    """Return when a watch token expires, in whole seconds since 1970."""
    end = float(int(time.time() + lifetime.total_seconds()))
    # A user's session outlasts the access token.
    if caller.expire_time is not None and caller.kind is not PrincipalKind.USER:
        end = min(end, float(int(caller.expire_time)))
    return end


def read_scope(entries: Sequence[str], found: Violations) -> Scope:
    """Return the scope with these entries; after a violation, an empty scope."""
    try:
        return parse_scope(entries)
    except ValueError as error:
        found.note("scope", str(error))
        return Scope()


def check_rank(call: Call, role: Role, action: str) -> None:
    """Check that a role has no right that the role of the caller lacks.

    Args:
        call: the context of the request.
        role: the role of the principal that the caller changes.
        action: the action of the caller, such as `to revoke a key`.

    Raises:
        PermissionDenied: the role has such a right.
    """
    if not RIGHTS[role] <= RIGHTS[call.principal.role]:
        raise PermissionDenied(f"{action} with the role {role}")


def check_grant(call: Call, role: Role, scope: Scope) -> None:
    """Check that the caller may grant a role within a scope to another principal.

    Raises:
        PermissionDenied: the grant includes a right that the caller lacks.
    """
    if not call.principal.may_grant(role, scope):
        raise PermissionDenied(f"to grant the role {role} with this scope")
