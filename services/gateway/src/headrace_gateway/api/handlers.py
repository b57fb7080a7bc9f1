"""The use case that lists handlers."""

from __future__ import annotations

from collections.abc import Sequence

from headrace_core.domain.errors import Violation
from headrace_core.domain.handler import LiveHandler
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_core.store.workers import live_handlers
from headrace_gateway.api.pages import Page, fill_page
from headrace_gateway.api.validation import MAX_PAGE_SIZE, Violations, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.tokens import decode_name_token, encode_name_token


class Handlers:
    """Lists handlers.

    Args:
        database: stores the registrations.
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
        """Fill a page with the handlers of live workers, sorted by type.

        Args:
            call: the context of the request.
            page: receives the handlers.
            size: the maximum number of handlers on the page; 0 for the largest page.
            token: the page token; empty for the first page.
            violations: the violations that the transport found in the request.

        Returns:
            The token of the next page; empty after the last page.

        Raises:
            InvalidRequest: the size or the token is invalid.
        """
        found = Violations(violations)
        limit = page_limit(size, found, default=MAX_PAGE_SIZE)
        found.check()
        after = decode_name_token(self._installation, call.tenant, token, of="handlers")
        async with self._database.statement() as conn:
            live = await live_handlers(conn, tenant=call.tenant)
        scope = call.principal.scope
        if scope.types:
            live = [handler for handler in live if handler.spec.type in scope.types]
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
