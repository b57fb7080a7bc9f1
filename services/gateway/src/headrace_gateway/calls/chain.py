"""The chain of links around every call.

Each link has one concern, a name, and the names of the links that must run before it. `order.py`
declares the order. When the gateway starts, `Chain` verifies the order and wraps each method.

To add a link, such as tracing:
1. Write its class in its own file: `name`, `needs`, and `wrap(method, proceed)`. A link that
   only checks is a plain function that raises, or returns `proceed(exchange)`. A link that also
   acts after the call (tracing, metrics) awaits `proceed(exchange)`.
2. Add one line to `order.py`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Protocol

from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Context, Exchange, Method, Proceed


class ChainError(Exception):
    """The links of a chain are incomplete or in the wrong order; the message names the link."""


class Link(Protocol):
    """One concern of every call.

    Attributes:
        name: the name, unique within a chain.
        needs: the names of links that must run before this one.
    """

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that handles this concern and calls `proceed`.

        If the concern does not apply to the method, return `proceed`.
        """


class Chain:
    """A verified sequence of links.

    Args:
        links: the links, outermost first.
        needs: the names of the links that every servicer needs.

    Raises:
        ChainError: a link is missing, present twice, or before a link that it needs.
    """

    def __init__(self, links: Sequence[Link], *, needs: Collection[str] = ()) -> None:
        self.links = tuple(links)
        names = [link.name for link in self.links]
        for position, link in enumerate(self.links):
            if link.name in names[:position]:
                raise ChainError(f"the link '{link.name}' appears twice in the chain")
            for needed in link.needs:
                if needed not in names:
                    raise ChainError(
                        f"the link '{needed}' is missing; the link '{link.name}' needs it"
                    )
                if needed not in names[:position]:
                    raise ChainError(f"the link '{link.name}' must be after the link '{needed}'")
        for needed in needs:
            if needed not in names:
                raise ChainError(f"the link '{needed}' is missing; servicers need it")

    def only(self, *names: str) -> Chain:
        """Return a chain of only the links with these names, in the order of this chain.

        Raises:
            ChainError: a name is not in this chain, or one of these links needs another link.
        """
        for name in names:
            if name not in {link.name for link in self.links}:
                raise ChainError(f"the link '{name}' is missing")
        return Chain([link for link in self.links if link.name in names], needs=names)

    def wrap(
        self, method: Method, behavior: Callable[[Any, Any], Any]
    ) -> Callable[[Any, Context], Awaitable[Message | None]]:
        """Return a gRPC handler that runs the links and then a servicer method.

        Args:
            method: the contract of the method.
            behavior: the servicer method. It receives the request and the Call, or gRPC's context
                if the method is foreign.
        """
        proceed = (
            _stream(method, behavior) if method.streams_responses else _unary(method, behavior)
        )
        for link in reversed(self.links):
            proceed = link.wrap(method, proceed)

        async def handle(raw: Any, context: Context) -> Message | None:
            exchange = Exchange(raw, context)
            # gRPC keeps the frames of an aborted call for a while. The deletion lets Python release
            # the request meanwhile.
            del raw
            return await proceed(exchange)

        return handle


def _unary(method: Method, behavior: Callable[[Any, Any], Awaitable[Message]]) -> Proceed:
    if method.foreign:
        return lambda exchange: behavior(exchange.request, exchange.context)
    return lambda exchange: behavior(exchange.request, exchange.call)


def _stream(
    method: Method, behavior: Callable[[Any, Any], AsyncGenerator[Message, None]]
) -> Proceed:
    # This handler writes responses instead of yielding them, so a cancelled call closes the
    # servicer's generator at once. Otherwise the garbage collector would close it later.
    async def respond(exchange: Exchange) -> None:
        source = behavior(exchange.request, exchange.context if method.foreign else exchange.call)
        write = exchange.write
        async with aclosing(source) as responses:
            async for response in responses:
                await write(response)

    return respond
