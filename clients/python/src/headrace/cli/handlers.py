"""`headrace handlers`"""

from __future__ import annotations

from headrace.cli.session import Injected
from headrace.cli.text import handlers_table


async def command(*, session: Injected) -> None:
    async with session.client() as client:
        found = await client.handlers()
    text = handlers_table(found) if found else "no live worker has registered a type"
    session.output.values(found, text)
