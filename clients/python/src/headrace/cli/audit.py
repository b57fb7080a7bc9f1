"""`headrace audit`: the audit log of a tenant."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from cyclopts import Parameter, validators

from headrace import AuditEvent
from headrace.cli.arguments import Flag, PastMomentOption
from headrace.cli.session import Injected
from headrace.cli.tables import audit_table

_MAX_PAGE_SIZE = 1000


async def audit(
    *,
    since: Annotated[
        PastMomentOption, Parameter(help="Only events after this time, or this long ago.")
    ] = None,
    until: Annotated[
        PastMomentOption, Parameter(help="Only events before this time, or this long ago.")
    ] = None,
    principal: Annotated[str, Parameter(help="Only the actions of this principal.")] = "",
    method: Annotated[
        str,
        Parameter(help="Only this method, or the methods of a service: AccessService/."),
    ] = "",
    denied: Annotated[Flag, Parameter(help="Only denied actions.")] = False,
    installation: Annotated[
        Flag,
        Parameter(help="Show actions without a tenant, such as calls with an invalid credential."),
    ] = False,
    limit: Annotated[
        int,
        Parameter(
            name=["--limit", "-n"],
            validator=validators.Number(gte=1),
            help="Maximum number of events.",
        ),
    ] = 100,
    session: Injected,
) -> None:
    found: list[AuditEvent] = []
    more = False
    async with session.client() as client:
        pages = client.audit_events(
            since=since,
            until=until,
            principal=principal,
            method=method,
            only_denied=denied,
            installation=installation,
            # Request one extra event to detect whether more exist.
            page_size=min(limit + 1, _MAX_PAGE_SIZE),
        )
        async with aclosing(pages) as events:
            async for event in events:
                more = len(found) == limit
                if more:
                    break
                found.append(event)
    session.output.values(found, audit_table(found) if found else "no events")
    if more:
        session.output.message(f"there are more than {limit} events; use --limit to list more")
