"""Events of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """An action in the audit log of a tenant.

    Args:
        seq: the number of the event; the events of a tenant are numbered without a gap.
        event_time: the time, by the database's clock.
        principal: the name of the principal; empty if the credential was not valid.
        principal_tenant: the tenant of the principal.
        kind: the kind of its credential, such as `API_KEY`.
        credential: the id of its credential, never a secret.
        address: the network address of the caller.
        method: the method, such as `AccessService/CreateApiKey`.
        target: the object of the action, such as `api key 7hq2`.
        denied: whether the action was denied.
        reason: the reason of the denial.
        count: the number of equal actions within a second that this event represents.
        hash: the hash of the event and of all events before it.
    """

    seq: int
    event_time: datetime | None
    principal: str
    principal_tenant: str
    kind: str
    credential: str
    address: str
    method: str
    target: str
    denied: bool
    reason: str
    count: int
    hash: str
