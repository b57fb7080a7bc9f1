"""`headrace subscription watch`"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from headrace import CallError, CursorExpired
from headrace.cli.arguments import DurationOption, Flag
from headrace.cli.patience import patience
from headrace.cli.session import Injected, Session
from headrace.cli.stream import EventStream

if TYPE_CHECKING:
    from headrace import SubscriptionWatch

# How long Ctrl-C waits for the acknowledgement of what was written, in seconds.
_LAST_ACK: Final = 2.0


async def command(
    name: Annotated[str, Parameter(help="The subscription's name.")],
    /,
    *,
    consumer: Annotated[
        str | None,
        Parameter(
            help="Names this receiver; one of the same name replaces it. One of its own unless "
            "given."
        ),
    ] = None,
    no_ack: Annotated[
        Flag, Parameter(help="Acknowledge nothing: all of it comes again, here or elsewhere.")
    ] = False,
    timeout_wait: Annotated[DurationOption, Parameter(help="Receive no longer than this.")] = None,
    session: Injected,
) -> None:
    message = session.output.message
    async with (
        session.client() as client,
        patience(timeout_wait, "the watch has reached --timeout-wait"),
    ):
        try:
            async with client.subscribe(name, consumer=consumer) as events:
                if events.standby:
                    message("another consumer receives; standing by; Ctrl-C ends it")
                else:
                    message("receiving; Ctrl-C ends it")
                await _show(events, session, acknowledge=not no_ack)
        except CursorExpired as error:
            message(
                "some of its events are not kept any more; to give them up and go on:\n"
                f"  headrace subscription ack {name} {error.oldest_cursor}"
            )
            raise


async def _show(events: SubscriptionWatch, session: Session, *, acknowledge: bool) -> None:
    complete = True
    stream = EventStream(session.output)
    try:
        with stream:
            async for event in events:
                complete = False
                # When this returns the line has been written and flushed.
                stream.show(event, cursor=events.cursor)
                if acknowledge:
                    complete = await events.ack()
    except asyncio.CancelledError:
        # The interrupt came during a wait: all received events were written.
        if acknowledge and not complete:
            with suppress(CallError, TimeoutError):
                async with asyncio.timeout(_LAST_ACK):
                    complete = await events.ack()
        raise
    finally:
        # The board erases its own lines when it stops, so this comes after it.
        rest = "all acknowledged" if complete else "what is not acknowledged comes again"
        session.output.message(f"{stream.summary()}; {rest}")
