"""Principals, roles, rights and scopes: the rules of access control.

A role grants rights within one tenant. A scope narrows them to some rights, queues, types, labels,
jobs or batches. The right `payload:read` is not part of any role; only a scope grants it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Final, TypeVar
from uuid import UUID

from headrace_core.domain.ids import BatchId, JobId
from headrace_core.domain.limits import (
    LABEL_KEY_RULE,
    LABEL_VALUE_RULE,
    NAME_RULE,
    is_label_key,
    is_label_value,
    is_name,
)
from headrace_core.domain.query import Clause, Comparison, JobFilter, Query

T = TypeVar("T")

# The maximum number of entries in a scope, and of characters in an entry.
MAX_SCOPE_ENTRIES: Final = 64
MAX_SCOPE_ENTRY: Final = 400
# The longest name of a principal, in characters.
MAX_PRINCIPAL_NAME: Final = 128


class Right(StrEnum):
    """A permission of a principal. The values are the entries of a scope."""

    JOBS_READ = "jobs:read"
    JOBS_SUBMIT = "jobs:submit"
    JOBS_CANCEL = "jobs:cancel"
    JOBS_RETRY = "jobs:retry"
    # Create, receive, acknowledge and delete subscriptions.
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    # See payloads, results, output, error messages and stack traces.
    PAYLOAD_READ = "payload:read"
    # Mint watch tokens.
    TOKENS_MINT = "tokens:mint"
    # Manage keys, users and client certificates of the tenant.
    ACCESS_MANAGE = "access:manage"
    # Set the quotas of the tenant.
    QUOTAS_MANAGE = "quotas:manage"
    AUDIT_READ = "audit:read"
    # Create, suspend and delete tenants, and act in any of them.
    TENANTS_MANAGE = "tenants:manage"


class Role(StrEnum):
    """A named set of rights. Each role has the rights of the previous one."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"
    # Above tenants: may act in each of them.
    PLATFORM = "platform"


_VIEWER: Final = frozenset({Right.JOBS_READ})
_OPERATOR: Final = _VIEWER | {
    Right.JOBS_SUBMIT,
    Right.JOBS_CANCEL,
    Right.JOBS_RETRY,
    Right.SUBSCRIPTIONS_WRITE,
    Right.TOKENS_MINT,
}
_ADMIN: Final = _OPERATOR | {Right.ACCESS_MANAGE, Right.QUOTAS_MANAGE, Right.AUDIT_READ}

RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    Role.VIEWER: _VIEWER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: _ADMIN,
    Role.PLATFORM: _ADMIN | {Right.TENANTS_MANAGE},
}


class PrincipalKind(StrEnum):
    """The kind of credential that identified a principal."""

    # Access control is off.
    ANONYMOUS = "anonymous"
    API_KEY = "api_key"
    # A token of an external issuer.
    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    # A person who has logged in.
    USER = "user"
    CERTIFICATE = "certificate"
    WATCH_TOKEN = "watch_token"  # noqa: S105 - a kind, not a secret


class TenantState(StrEnum):
    """The state of a tenant. Calls for a tenant that is not active are rejected."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETING = "deleting"


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A restriction of the rights of a role.

    Empty fields restrict nothing. A job is within the scope if it matches each nonempty field
    except `rights`.

    Attributes:
        rights: the rights to keep. PAYLOAD_READ is added to the rights of the role.
        queues: the queues.
        types: the job types.
        labels: labels that a job must have.
        batch_id: the batch.
        job_ids: the jobs.
    """

    rights: frozenset[Right] = frozenset()
    queues: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    batch_id: BatchId | None = None
    job_ids: frozenset[JobId] = frozenset()

    @cached_property
    def covers_all_jobs(self) -> bool:
        """True if the scope includes each job of the tenant."""
        return not (self.queues or self.types or self.labels or self.batch_id or self.job_ids)

    def covers(
        self,
        *,
        queue: str,
        job_type: str,
        labels: Mapping[str, str],
        batch_id: BatchId | None = None,
        job_id: JobId | None = None,
    ) -> bool:
        """Return whether a job is within the scope."""
        return (
            (not self.queues or queue in self.queues)
            and (not self.types or job_type in self.types)
            and (self.batch_id is None or batch_id == self.batch_id)
            and (not self.job_ids or job_id in self.job_ids)
            and all(labels.get(key) == value for key, value in self.labels.items())
        )

    def covers_filter(self, job_filter: JobFilter) -> bool:
        """Return whether each job that matches the filter is within the scope."""
        return (
            _within(job_filter.queues, self.queues)
            and _within(job_filter.types, self.types)
            and _within(job_filter.job_ids, self.job_ids)
            and (self.batch_id is None or job_filter.batch_id == self.batch_id)
            and all(job_filter.labels.get(key) == value for key, value in self.labels.items())
        )

    def narrow(self, job_filter: JobFilter) -> JobFilter | None:
        """Return the filter for the jobs that match it and are within the scope.

        Returns:
            None if no job can match both.
        """
        if self.covers_all_jobs:
            return job_filter
        queues = _common(job_filter.queues, self.queues)
        types = _common(job_filter.types, self.types)
        job_ids = _common(job_filter.job_ids, self.job_ids)
        batch_id = job_filter.batch_id or self.batch_id
        conflict = any(
            job_filter.labels.get(key, value) != value for key, value in self.labels.items()
        )
        if (
            queues is None
            or types is None
            or job_ids is None
            or conflict
            or (self.batch_id is not None and batch_id != self.batch_id)
        ):
            return None
        return JobFilter(
            queues=queues,
            types=types,
            states=job_filter.states,
            labels={**job_filter.labels, **self.labels},
            batch_id=batch_id,
            job_ids=job_ids,
        )

    def query(self) -> Query:
        """Return the clauses that select the jobs within the scope."""
        clauses: list[Clause] = [
            tuple(Comparison(field=name, operator="=", value=value) for value in sorted(values))
            for name, values in (("queue", self.queues), ("type", self.types))
            if values
        ]
        if self.job_ids:
            clauses.append(
                tuple(
                    Comparison(field="id", operator="=", value=job_id)
                    for job_id in sorted(self.job_ids)
                )
            )
        if self.batch_id is not None:
            clauses.append((Comparison(field="batch_id", operator="=", value=self.batch_id),))
        clauses += [
            (Comparison(field="labels", operator="=", value=value, key=key),)
            for key, value in self.labels.items()
        ]
        return tuple(clauses)

    def within(self, other: Scope) -> bool:
        """Return whether this scope includes no job that `other` excludes.

        Rights are not compared; compare the rights of principals instead.
        """
        return other.covers_filter(
            JobFilter(
                queues=self.queues,
                types=self.types,
                labels=self.labels,
                batch_id=self.batch_id,
                job_ids=self.job_ids,
            )
        )

    def entries(self) -> list[str]:
        """Return the sorted entries from which `parse_scope` creates this scope."""
        entries: list[str] = sorted(self.rights)
        entries += [f"queue:{name}" for name in sorted(self.queues)]
        entries += [f"type:{name}" for name in sorted(self.types)]
        entries += [f"label:{key}={value}" for key, value in sorted(self.labels.items())]
        if self.batch_id is not None:
            entries.append(f"batch:{self.batch_id}")
        entries += [f"job:{job_id}" for job_id in sorted(self.job_ids)]
        return entries


FULL_SCOPE: Final = Scope()


def parse_scope(entries: Iterable[str]) -> Scope:
    """Return the scope with these entries.

    Args:
        entries: rights, such as `jobs:read`, and jobs: `queue:NAME`, `type:NAME`,
            `label:KEY=VALUE`, `batch:ID`, `job:ID`.

    Raises:
        ValueError: an entry is malformed or unknown, or there are too many entries.
    """
    rights: set[Right] = set()
    names: dict[str, set[str]] = {"queue": set(), "type": set()}
    labels: dict[str, str] = {}
    batch_ids: set[BatchId] = set()
    job_ids: set[JobId] = set()
    for number, entry in enumerate(entries):
        if number >= MAX_SCOPE_ENTRIES:
            raise ValueError(f"at most {MAX_SCOPE_ENTRIES} entries are allowed")
        if len(entry) > MAX_SCOPE_ENTRY:
            raise ValueError(f"an entry has at most {MAX_SCOPE_ENTRY} characters")
        kind, _, value = entry.partition(":")
        if kind in names:
            if not is_name(value):
                raise ValueError(f"{entry!r}: the name {NAME_RULE}")
            names[kind].add(value)
        elif kind == "label":
            key, equals, text = value.partition("=")
            if not equals or not is_label_key(key):
                raise ValueError(f"{entry!r}: use label:KEY=VALUE; the key {LABEL_KEY_RULE}")
            if not is_label_value(text):
                raise ValueError(f"{entry!r}: the value {LABEL_VALUE_RULE}")
            if labels.setdefault(key, text) != text:
                raise ValueError(f"{entry!r}: the label {key} has two values")
        elif kind == "batch":
            batch_ids.add(BatchId(_uuid(entry, value)))
            if len(batch_ids) > 1:
                raise ValueError(f"{entry!r}: only one batch is allowed")
        elif kind == "job":
            job_ids.add(JobId(_uuid(entry, value)))
        else:
            try:
                rights.add(Right(entry))
            except ValueError:
                raise ValueError(
                    f"{entry!r} is not a scope; use {', '.join(Right)}, queue:NAME, type:NAME, "
                    "label:KEY=VALUE, batch:ID or job:ID"
                ) from None
    return Scope(
        rights=frozenset(rights),
        queues=frozenset(names["queue"]),
        types=frozenset(names["type"]),
        labels=labels,
        batch_id=next(iter(batch_ids), None),
        job_ids=frozenset(job_ids),
    )


def rights_of(role: Role, scope: Scope) -> frozenset[Right]:
    """Return the rights of a role within a scope.

    A scope without rights keeps all rights of the role. PAYLOAD_READ comes only from the scope.
    """
    kept = scope.rights - {Right.PAYLOAD_READ}
    granted = RIGHTS[role] & kept if kept else RIGHTS[role]
    return granted | (scope.rights & {Right.PAYLOAD_READ})


@dataclass(frozen=True, slots=True, kw_only=True)
class Minter:
    """The credential with which a token was minted; its revocation revokes the token.

    Attributes:
        kind: the kind of the credential.
        tenant: the tenant of its principal.
        name: the name of its principal.
        credential: the id of the credential.
    """

    kind: PrincipalKind
    tenant: str
    name: str
    credential: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The caller: a person or a program.

    Attributes:
        name: unique among the principals of a tenant.
        tenant: the tenant of the principal.
        kind: the kind of its credential.
        role: the role.
        scope: the restriction of the role.
        rights: the rights of the role within the scope.
        credential: the id of the credential, for revocation and the audit log; never a secret.
        expire_time: the time at which the credential expires, in seconds since 1970; None for
            never.
        minter: the credential that minted a watch token; None for other kinds.
        issuer_key: the fingerprint of the key with which an external issuer signed the token; empty
            for other credentials.
        version: the version of the log of credential changes when this credential was verified.
    """

    name: str
    tenant: str
    kind: PrincipalKind
    role: Role
    scope: Scope = FULL_SCOPE
    rights: frozenset[Right]
    credential: str = ""
    expire_time: float | None = None
    minter: Minter | None = None
    issuer_key: str = field(default="", compare=False)
    version: int = field(default=0, compare=False)

    @classmethod
    def of(
        cls,
        *,
        name: str,
        tenant: str,
        kind: PrincipalKind,
        role: Role,
        scope: Scope = FULL_SCOPE,
        credential: str = "",
        expire_time: float | None = None,
        minter: Minter | None = None,
        issuer_key: str = "",
        version: int = 0,
    ) -> Principal:
        """Return a principal with the rights of its role within its scope."""
        return cls(
            name=name,
            tenant=tenant,
            kind=kind,
            role=role,
            scope=scope,
            rights=rights_of(role, scope),
            credential=credential,
            expire_time=expire_time,
            minter=minter,
            issuer_key=issuer_key,
            version=version,
        )

    def may_grant(self, role: Role, scope: Scope) -> bool:
        """Return whether this principal has each right that the role grants within the scope."""
        return rights_of(role, scope) <= self.rights and scope.within(self.scope)


def _uuid(entry: str, value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise ValueError(f"{entry!r}: {value!r} is not an id") from None


def _within(part: frozenset[T], whole: frozenset[T]) -> bool:
    """Return whether a set is a subset of another. An empty set means everything."""
    return not whole or (bool(part) and part <= whole)


def _common(wanted: frozenset[T], allowed: frozenset[T]) -> frozenset[T] | None:
    """Return the common items; None if there are none. An empty set means everything."""
    if not wanted or not allowed:
        return wanted or allowed
    return wanted & allowed or None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored API key, without its secret.

    Attributes:
        id: the public part of the key.
        tenant: the tenant of the principal.
        principal: the principal that the key identifies; several keys may share it.
        role: the role.
        scope: the restriction of the role.
        created_by: the principal that created the key.
        create_time: the time of creation.
        expire_time: the time after which the key is invalid; None for never.
        last_use_time: the time of the last use, to the minute; None before the first use.
        revoke_time: the time of the revocation; None if the key is valid.
    """

    id: str
    tenant: str
    principal: str
    role: Role
    scope: Scope
    created_by: str
    create_time: datetime
    expire_time: datetime | None = None
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessChange:
    """A changed credential or tenant.

    Attributes:
        version: the number of the change; later changes have larger numbers.
        tenant: the tenant of the credential.
        kind: the kind of the credential, `tenant`, `quotas` or `signing_key`.
        subject: the id of the credential, the name of the user, the tenant, or the id of a revoked
            signing key.
    """

    version: int
    tenant: str
    kind: str
    subject: str

    def concerns(self, principal: Principal, tenant: str) -> bool:
        """Return whether the change may affect the rights of a principal that acts in a tenant."""
        if self.kind in (TENANT_CHANGE, TENANT_CREATION):
            return self.subject in (tenant, principal.tenant)
        if self.kind == SIGNING_KEY_CHANGE:
            return principal.kind in SIGNED_KINDS
        return self._concerns(principal) or (
            principal.minter is not None and self._concerns(principal.minter)
        )

    def _concerns(self, owner: Principal | Minter) -> bool:
        return (
            self.kind == owner.kind
            and self.tenant == owner.tenant
            and self.subject in (owner.credential, owner.name)
        )


# The kind of a change of a tenant.
TENANT_CHANGE: Final = "tenant"
# The kind of the creation of a tenant, which invalidates the credentials of a deleted tenant with
# the same name.
TENANT_CREATION: Final = "tenant_creation"
# The kind of a change of a tenant's quotas, which ends no stream.
QUOTAS_CHANGE: Final = "quotas"
# The kind of the change that revokes a signing key.
SIGNING_KEY_CHANGE: Final = "signing_key"
# The kinds of principals whose tokens the installation signs.
SIGNED_KINDS: Final = frozenset({PrincipalKind.USER, PrincipalKind.WATCH_TOKEN})
