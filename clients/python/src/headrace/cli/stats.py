"""`headrace stats`"""

from __future__ import annotations

from headrace.cli.session import Injected
from headrace.cli.text import stats_view


async def command(*, session: Injected) -> None:
    async with session.client() as client:
        found = await client.stats()
    session.output.value(found, stats_view(found))
