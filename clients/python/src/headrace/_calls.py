"""Unary calls with a deadline and retries, and streams that resume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from grpc import aio

from headrace._gateways import Gateway, Gateways
from headrace._status import call_error
from headrace._stream import Stream
from headrace._timing import DEFAULT, Backoff, Timing, check_seconds
from headrace.errors import DeadlineExceeded, Refusal, Unavailable

Q = TypeVar("Q")
R = TypeVar("R")

Metadata: TypeAlias = tuple[tuple[str, str], ...]


class Calls:
    """Calls the gateway in use, or the next gateway if it fails.

    Args:
        gateways: the gateways to call.
        timeout: the deadline of a unary call including all retries, in seconds.
        retries: maximum number of retries of a unary call that fails with UNAVAILABLE.
        resume_timeout: maximum time to resume a stream after its last response, in seconds.
        timing: the durations of calls and streams.

    Attributes:
        timeout: the deadline of a unary call, in seconds.
    """

    def __init__(
        self,
        *,
        gateways: Gateways,
        timeout: float,
        retries: int,
        resume_timeout: float,
        timing: Timing = DEFAULT,
    ) -> None:
        self.timeout = timeout
        self._gateways = gateways
        self._retries = retries
        self._resume_timeout = resume_timeout
        self._timing = timing

    async def unary(
        self,
        method: Callable[[Gateway], aio.UnaryUnaryMultiCallable[Q, R]],
        request: Q,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server
        metadata: Metadata | None = None,
    ) -> R:
        """Call a unary method.

        Args:
            method: returns the stub method of a gateway.
            request: the request message.
            timeout: the deadline, in seconds, instead of the default.
            metadata: the call metadata.

        Raises:
            CallError: the call was rejected or failed.
            ValueError: the deadline is not a positive, finite number.
            ForkedProcess, MonkeyPatched, WrongEventLoop: gRPC does not work here.
        """
        if timeout is not None:
            check_seconds("call_timeout", timeout)
        # Check for a fork first, because a forked child has no running loop.
        gateway = self._gateways.current()
        clock = asyncio.get_running_loop().time
        end = clock() + (self.timeout if timeout is None else timeout)
        backoff: Backoff | None = None
        retries = 0
        unavailable: Unavailable | None = None
        while True:
            try:
                # gRPC ends the call at its deadline. If gRPC is stuck, the event loop cancels it.
                async with asyncio.timeout_at(end + self._timing.grace_period):
                    return await method(gateway)(
                        request, timeout=max(0.001, end - clock()), metadata=metadata
                    )
            except TimeoutError:
                late = self._timing.grace_period
                message = f"gRPC has not ended the call {late:g} s after its deadline"
                raise DeadlineExceeded(Refusal(code="DEADLINE_EXCEEDED", message=message)) from None
            except aio.AioRpcError as failure:
                error = call_error(failure, proxy=gateway.proxy)
                if isinstance(error, DeadlineExceeded) and unavailable is not None:
                    # The last attempt had only the remaining time, so the earlier error is the
                    # cause.
                    raise unavailable from failure
                if not isinstance(error, Unavailable):
                    raise error from failure
                unavailable = error
                backoff = backoff or self._timing.call_backoff()
                wait = self._switch_gateway(gateway, error, backoff)
                if retries == self._retries or clock() + wait >= end:
                    raise error from failure
            retries += 1
            await asyncio.sleep(wait)
            gateway = self._gateways.current()

    def stream(self, *, endless: bool) -> Stream[Any]:
        """Return a stream, which starts when the caller first waits for a response.

        Args:
            endless: whether the stream sends marks and ends only with an error. Until its first
                response, such a stream is retried as often as a unary call. Other streams end
                normally and can be quiet for any length of time.
        """
        targets = len(self._gateways.targets)
        return Stream(
            gateways=self._gateways,
            endless=endless,
            first_retries=self._retries if endless else None,
            resume_timeout=self._resume_timeout,
            accept_timeout=self.timeout / targets if targets > 1 else None,
            timing=self._timing,
        )

    def _switch_gateway(self, gateway: Gateway, error: Unavailable, backoff: Backoff) -> float:
        """Switch to the next gateway, and return the wait before the retry, in seconds."""
        moved = self._gateways.switch_from(gateway)
        # The wait that a gateway requests applies only to that gateway.
        return backoff.next(None if moved else error.refusal.retry_after)
