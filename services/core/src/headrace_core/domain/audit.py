"""The audit log: who did what, from where, and whether it was allowed.

The events of a tenant form a chain: each event contains a hash of the previous hash and of its own
fields. A changed, removed or inserted event therefore breaks the chain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace_core.domain.access import Principal, PrincipalKind
from headrace_core.domain.text import clean_line

# The name of the chain for calls without a tenant, such as calls with an invalid credential.
INSTALLATION_CHAIN: Final = ""
# The hash before the first event of a chain.
FIRST_HASH: Final = bytes(32)
# The principal of a command of `python -m headrace_core`, which has no credential.
COMMAND_LINE: Final = "command line"
# The longest text in an event, in characters.
MAX_AUDIT_TEXT: Final = 500

_TEXTS: Final = (
    *("principal", "principal_tenant", "credential", "address", "method", "target", "reason"),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """An action to record.

    Attributes:
        tenant: the tenant of the action, whose chain contains the event; `INSTALLATION_CHAIN` for
            none.
        principal: the name of the principal; empty if it is unknown.
        principal_tenant: the tenant of the principal.
        kind: the kind of its credential.
        credential: the id of its credential, never a secret.
        address: the network address of the caller, without its port.
        method: the RPC or command, such as `AccessService/CreateApiKey`.
        target: the object of the action, such as `api key 7hq2`.
        allowed: whether the action was allowed.
        reason: the reason why it was denied.
        count: the number of equal actions that this event represents.
    """

    tenant: str
    principal: str = ""
    principal_tenant: str = ""
    kind: PrincipalKind = PrincipalKind.ANONYMOUS
    credential: str = ""
    address: str = ""
    method: str
    target: str = ""
    allowed: bool = True
    reason: str = ""
    count: int = 1

    def __post_init__(self) -> None:
        for name in _TEXTS:
            object.__setattr__(self, name, clean_line(getattr(self, name), MAX_AUDIT_TEXT))

    @classmethod
    def by(
        cls,
        principal: Principal,
        *,
        tenant: str,
        address: str = "",
        method: str,
        target: str = "",
        allowed: bool = True,
        reason: str = "",
    ) -> AuditEntry:
        """Return the entry for an action of a principal."""
        return cls(
            tenant=tenant,
            principal=principal.name,
            principal_tenant=principal.tenant,
            kind=principal.kind,
            credential=principal.credential,
            address=address,
            method=method,
            target=target,
            allowed=allowed,
            reason=reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """A recorded action.

    Attributes:
        seq: the number of the event in its chain, from 1 and without a gap.
        time: the time of the event, by the database's clock. It never decreases within a chain.
        entry: the action.
        hash: the hash of the previous event's hash and of the fields of this event.
    """

    seq: int
    time: datetime
    entry: AuditEntry
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditChain:
    """The bounds of a chain.

    Attributes:
        tenant: the tenant, or `INSTALLATION_CHAIN`.
        start_seq, start_hash: the newest pruned event; 0 and `FIRST_HASH` if none was pruned.
        seq, hash: the newest event.
    """

    tenant: str
    start_seq: int
    start_hash: bytes
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Selects events of a chain. Empty fields select everything.

    Attributes:
        start: the earliest time.
        end: the time before which the events happened.
        principal: the name of the principal.
        method: the method, or the start of a method that ends with `/`.
        only_denied: whether to leave out allowed actions.
    """

    start: datetime | None = None
    end: datetime | None = None
    principal: str = ""
    method: str = ""
    only_denied: bool = False


def chain_hash(previous: bytes, event: AuditEvent) -> bytes:
    """Return the hash of an event, as the trigger of the table `audit_log` computes it.

    The hash is SHA-256 of the previous hash and of the fields as netstrings: the length in bytes, a
    colon, and the UTF-8 text.

    Args:
        previous: the hash of the previous event.
        event: the event; its `hash` is ignored.
    """
    entry = event.entry
    fields = (
        entry.tenant,
        str(event.seq),
        str((event.time - _EPOCH) // timedelta(microseconds=1)),
        entry.principal,
        entry.principal_tenant,
        entry.kind,
        entry.credential,
        entry.address,
        entry.method,
        entry.target,
        "allowed" if entry.allowed else "denied",
        entry.reason,
        str(entry.count),
    )
    digest = hashlib.sha256(previous)
    for text in fields:
        raw = text.encode()
        digest.update(b"%d:%s" % (len(raw), raw))
    return digest.digest()


class ChainCheck:
    """Checks the events of a chain, page by page.

    Args:
        chain: the bounds of the chain.
    """

    def __init__(self, chain: AuditChain) -> None:
        self._chain = chain
        # The newest event that was checked.
        self.seq = chain.start_seq
        self._hash = chain.start_hash

    def check(self, events: Iterable[AuditEvent]) -> Sequence[str]:
        """Check the next events, in order, and return a description of each breach.

        After a breach, the check continues from the stored hash, so it reports each change once.
        """
        found = []
        for event in events:
            if event.seq != self.seq + 1:
                found.append(f"events {self.seq + 1} to {event.seq - 1} are missing")
            elif chain_hash(self._hash, event) != event.hash:
                found.append(f"event {event.seq} or the event before it was changed")
            self.seq, self._hash = event.seq, event.hash
        return found

    def end(self) -> Sequence[str]:
        """Return the breaches at the end of the chain, after its last event was checked."""
        if self.seq < self._chain.seq:
            return [f"events {self.seq + 1} to {self._chain.seq} are missing"]
        if self.seq > self._chain.seq:
            return [f"events {self._chain.seq + 1} to {self.seq} are beyond the end of the chain"]
        if self._hash != self._chain.hash:
            return [f"event {self.seq} differs from the end of the chain"]
        return []
