"""Unary calls with a deadline and retries, and streams that resume."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from grpc import aio

from headrace._gateways import Gateway, Gateways
from headrace._headers import Headers, Metadata
from headrace._status import call_error
from headrace._stream import Stream
from headrace._timing import DEFAULT, Backoff, Timing, check_seconds
from headrace.errors import (
    CallError,
    DeadlineExceeded,
    InsecureConnection,
    Refusal,
    Unauthenticated,
    Unavailable,
)

Q = TypeVar("Q")
Q_contra = TypeVar("Q_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class UnaryMethod(Protocol[Q_contra, R_co]):
    """The stub of a unary method."""

    def __call__(
        self, request: Q_contra, /, *, timeout: float, metadata: Any
    ) -> Awaitable[R_co]: ...


class Calls:
    """Calls the gateway in use, or the next gateway if it fails.

    Args:
        gateways: the gateways to call.
        timeout: the deadline of a unary call including all retries, in seconds.
        retries: maximum number of retries of a unary call that fails with UNAVAILABLE.
        resume_timeout: maximum time to resume a stream after its last response, in seconds.
        headers: the headers of all calls; None for none.
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
        headers: Headers | None = None,
        timing: Timing = DEFAULT,
    ) -> None:
        self.timeout = timeout
        self._gateways = gateways
        self._retries = retries
        self._resume_timeout = resume_timeout
        self._headers = headers or Headers()
        self._timing = timing

    async def unary(
        self,
        method: Callable[[Gateway], UnaryMethod[Q, R]],
        request: Q,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - sent to the server
        metadata: Metadata = (),
        authenticated: bool = True,
        punctual: bool = False,
    ) -> R:
        """Call a unary method.

        Args:
            method: returns the stub method of a gateway.
            request: the request message.
            timeout: the deadline, in seconds, instead of the default.
            metadata: further headers of the call.
            authenticated: whether to send the credential.
            punctual: whether the method ends at its deadline even if gRPC is stuck.

        Raises:
            CallError: the call was rejected or failed.
            Exception: an error of the token provider.
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
        headers = self._headers.current if authenticated else self._headers.anonymous
        if headers is None:
            headers = await self._renew_headers(end)
        renewable = authenticated and self._headers.renewable
        while True:
            try:
                call = method(gateway)(
                    request,
                    timeout=max(0.001, end - clock()),
                    metadata=(*headers, *metadata) or None,
                )
                if punctual:
                    return await call
                # gRPC ends the call at its deadline. If gRPC is stuck, the event loop cancels it.
                async with asyncio.timeout_at(end + self._timing.grace_period):
                    return await call
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
                if isinstance(error, Unauthenticated) and renewable:
                    renewable = False
                    headers = await self._renew_headers(end, headers)
                    continue
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

    async def unary_with_secret(
        self,
        secret: str,
        method: Callable[[Gateway], UnaryMethod[Q, R]],
        request: Q,
        *,
        authenticated: bool = True,
    ) -> R:
        """Call a unary method with a secret in the request; see `unary`.

        Args:
            secret: the name of the secret, for the error message.
            method, request, authenticated: see `unary`.

        Raises:
            InsecureConnection: the secret would be sent to another machine in plaintext.
        """
        try:
            self._headers.check_secrecy(secret)
            return await self.unary(method, request, authenticated=authenticated)
        except (CallError, InsecureConnection) as error:
            # An error report can contain the local variables of each frame, so the traceback must
            # not include a frame with the request.
            del request
            raise error.with_traceback(None) from None

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
            headers=self._headers,
            timing=self._timing,
        )

    async def _renew_headers(self, end: float, rejected: Metadata | None = None) -> Metadata:
        """Return new headers for a call that ends at `end`; see `Headers.renew`."""
        limit = asyncio.timeout_at(end)
        try:
            async with limit:
                return await self._headers.renew(rejected)
        except TimeoutError as error:
            if not limit.expired():
                raise
            message = "token_provider returned no token before the deadline of the call"
            refusal = Refusal(code="DEADLINE_EXCEEDED", message=message)
            raise DeadlineExceeded(refusal) from error

    def _switch_gateway(self, gateway: Gateway, error: Unavailable, backoff: Backoff) -> float:
        """Switch to the next gateway, and return the wait before the retry, in seconds."""
        moved = self._gateways.switch_from(gateway)
        # The wait that a gateway requests applies only to that gateway.
        return backoff.next(None if moved else error.refusal.retry_after)


def random_key() -> str:
    """Return a random idempotency key."""
    return os.urandom(16).hex()
