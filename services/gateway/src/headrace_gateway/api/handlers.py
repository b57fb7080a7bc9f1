"""The handlers of live workers: their list, and a cache of their queues and payload schemas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from headrace_core.domain.errors import HeadraceError, Violation
from headrace_core.domain.handler import LiveHandler
from headrace_core.runtime.tasks import end_tasks
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.workers import live_handlers
from headrace_core.wake import WakeSubscription
from headrace_gateway.api.pages import Page, fill_page
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.validation import MAX_PAGE_SIZE, Violations, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token

_log = structlog.get_logger()

# Seconds after which what is known is read again, rung or not.
MAX_AGE: Final = 2.0
# Seconds after which a tenant that submits nothing is forgotten.
_IDLE: Final = 60.0


class Handlers:
    """The use cases of handlers.

    Args:
        database: the store of the registrations.
        installation: signs page tokens.
    """

    def __init__(self, *, database: Database, installation: Installation) -> None:
        self._database = database
        self._installation = installation

    async def list(
        self,
        call: Call,
        page: Page[LiveHandler],
        *,
        size: int = 0,
        token: str = "",
        violations: Sequence[Violation] = (),
    ) -> str:
        """Fill a page with the handlers of live workers, by type.

        Args:
            call: the call.
            page: receives the handlers.
            size: the most handlers of the page; 0 for the largest page.
            token: the token of the page; empty for the first one.
            violations: the violations that the transport found in the request.

        Returns:
            The token of the next page; empty after the last one.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations(violations)
        limit = page_limit(size, found, default=MAX_PAGE_SIZE)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of="handlers")
        async with self._database.statement() as conn:
            live = await live_handlers(conn, tenant=call.tenant)
        live.sort(key=_type_of)

        async def read(after: str, wanted: int) -> tuple[Sequence[LiveHandler], bool]:
            rest = [handler for handler in live if handler.spec.type > after]
            return rest[:wanted], len(rest) <= wanted

        last = await fill_page(page, read, key=_type_of, after=after, size=limit)
        if not last:
            return ""
        return encode_name_token(self._installation, call.tenant, last, of="handlers")


def _type_of(handler: LiveHandler) -> str:
    return handler.spec.type


@dataclass(slots=True)
class _Tenant:
    handlers: Mapping[str, KnownHandler]
    used: float


class HandlerCache:
    """Live handlers by tenant, at most about two seconds old.

    Only tenants that submit are kept up to date.

    Args:
        database: where workers are registered.
        wake: for changes of registrations.
    """

    def __init__(self, *, database: Database, wake: WakeSubscription) -> None:
        self._database = database
        self._wake = wake
        self._tenants: dict[str, _Tenant] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to follow the registrations."""
        self._loop = asyncio.create_task(self._run(), name="handlers")

    async def stop(self) -> None:
        """Ends that."""
        if self._loop is not None:
            await end_tasks(self._loop, within=5)
            self._loop = None

    async def of(self, tenant: str) -> Mapping[str, KnownHandler]:
        """A tenant's handlers by type.

        Raises:
            Unavailable: they are not known yet and the database cannot be asked.
        """
        known = self._tenants.get(tenant)
        if known is None:
            handlers = await self._read(tenant)
            known = self._tenants[tenant] = _Tenant(handlers, 0.0)
        known.used = time.monotonic()
        return known.handlers

    async def run_once(self) -> None:
        """Reads the handlers of all tenants in use again."""
        idle = time.monotonic() - _IDLE
        for tenant, known in list(self._tenants.items()):
            if known.used < idle:
                del self._tenants[tenant]
            else:
                known.handlers = await self._read(tenant)

    async def _read(self, tenant: str) -> Mapping[str, KnownHandler]:
        async with self._database.statement() as conn:
            live = await live_handlers(conn, tenant=tenant)
        return {
            handler.spec.type: KnownHandler(
                handler.spec.type, handler.spec.queue, handler.spec.payload_schema
            )
            for handler in live
        }

    async def _run(self) -> None:
        while True:
            await self._wake.wait(MAX_AGE)
            try:
                await self.run_once()
            except HeadraceError as error:
                # What was known stays in use; without the database no submit succeeds anyway.
                _log.warning("handlers_not_read", error=str(error))
            except Exception:  # noqa: BLE001 - nobody would notice that it has ended
                _log.exception("handlers_not_read")
