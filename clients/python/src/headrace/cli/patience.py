"""--timeout-wait"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta


@asynccontextmanager
async def patience(limit: timedelta | None, message: str) -> AsyncGenerator[None, None]:
    """Ends its block after `limit`; None is never.

    Raises:
        TimeoutError: it was ended; with `message`.
    """
    seconds = limit.total_seconds() if limit is not None else None
    try:
        async with asyncio.timeout(seconds) as scope:
            yield
    except TimeoutError as error:
        # Calls have deadlines of their own.
        if scope.expired():
            raise TimeoutError(message) from error
        raise
