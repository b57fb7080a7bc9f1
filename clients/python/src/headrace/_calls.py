"""How the client calls: unary calls with a deadline and retries, streams that resume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar, cast

from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from headrace._backoff import Backoff
from headrace._gateways import Gateway, Gateways
from headrace._status import call_error
from headrace.errors import DeadlineExceeded, Refusal, Unavailable

Q = TypeVar("Q")
R = TypeVar("R")


class Calls:
    """Calls whichever gateway answers.

    Args:
        gateways: the gateways.
        timeout: the deadline of a unary call with all its retries, in seconds.
        retries: how often a unary call is tried again while it is UNAVAILABLE.
        resume_timeout: how long a stream that was cut is tried again, in seconds, since its last
            response.
    """

    def __init__(
        self, *, gateways: Gateways, timeout: float, retries: int, resume_timeout: float
    ) -> None:
        self._gateways = gateways
        self._timeout = timeout
        self._retries = retries
        self._resume_timeout = resume_timeout

    async def unary(
        self, method: Callable[[Gateway], aio.UnaryUnaryMultiCallable[Q, R]], request: Q
    ) -> R:
        """Calls a unary method.

        Args:
            method: picks the method of a gateway.
            request: what is sent.

        Raises:
            CallError: it was refused or did not come through.
        """
        clock = asyncio.get_running_loop().time
        end = clock() + self._timeout
        backoff = Backoff(longest=4.0)
        retries = 0
        unavailable: Unavailable | None = None
        while True:
            gateway = self._gateways.current()
            try:
                return await method(gateway)(request, timeout=max(0.001, end - clock()))
            except aio.AioRpcError as failure:
                error = call_error(failure)
                if isinstance(error, DeadlineExceeded) and unavailable is not None:
                    # The last attempt had only what the others left: they say more.
                    raise unavailable from failure
                if not isinstance(error, Unavailable):
                    raise error from failure
                unavailable = error
                wait = self._wait(gateway, error, backoff)
                if retries == self._retries or clock() + wait >= end:
                    raise error from failure
            retries += 1
            await asyncio.sleep(wait)

    async def stream(
        self,
        start: Callable[[Gateway], aio.UnaryStreamCall[Q, R]],
        *,
        silence: float | None = None,
        begin_soon: bool = False,
    ) -> AsyncGenerator[R, None]:
        """Yields the responses of a stream, which is started again when it was cut.

        Args:
            start: starts the stream at a gateway, from where the last response ended.
            silence: the longest time without a response, in seconds, after which the stream counts
                as cut. None: a stream of this kind may be quiet for ever.
            begin_soon: until the first response it is tried again no more often than a unary call.

        Raises:
            CallError: it was refused, or could not be resumed in time.
        """
        clock = asyncio.get_running_loop().time
        backoff = Backoff(longest=5.0)
        give_up: float | None = None
        retries_left = self._retries if begin_soon else None
        while True:
            gateway = self._gateways.current()
            call = start(gateway)
            try:
                while True:
                    response = await _read(call, silence)
                    if response is EOF:
                        return
                    give_up = retries_left = None
                    backoff.reset()
                    yield cast(R, response)
            except aio.AioRpcError as failure:
                error = call_error(failure)
                if not isinstance(error, Unavailable):
                    raise error from failure
            except Unavailable as failure:
                error = failure
            finally:
                call.cancel()
            wait = self._wait(gateway, error, backoff)
            if give_up is None:
                give_up = clock() + self._resume_timeout
            if retries_left == 0 or clock() + wait >= give_up:
                raise error
            if retries_left is not None:
                retries_left -= 1
            await asyncio.sleep(wait)

    def _wait(self, gateway: Gateway, error: Unavailable, backoff: Backoff) -> float:
        """Goes on to another gateway if there is one; how long to wait before, in seconds."""
        moved = self._gateways.leave(gateway)
        # What a gateway asks for holds for itself.
        return backoff.next(None if moved else error.refusal.retry_after)


async def _read(call: aio.UnaryStreamCall[Q, R], silence: float | None) -> object:
    """The next response, or EOF.

    Raises:
        AioRpcError: the stream failed.
        Unavailable: it was silent for too long.
    """
    try:
        async with asyncio.timeout(silence) as patience:
            return await call.read()
    except TimeoutError:
        if not patience.expired():
            raise
        raise Unavailable(
            Refusal(code="UNAVAILABLE", message=f"the stream was silent for {silence:g} s")
        ) from None
