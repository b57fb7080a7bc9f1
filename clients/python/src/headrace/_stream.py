"""A stream that resumes after a disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast

from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # the stubs lack it

from headrace import _process
from headrace._gateways import Gateway, Gateways, health_request
from headrace._headers import Headers, Metadata
from headrace._status import call_error
from headrace._timing import Timing
from headrace.errors import (
    CallError,
    CredentialChanged,
    QuotaExceeded,
    Refusal,
    SlowConsumer,
    TokensThrottled,
    Unauthenticated,
    Unavailable,
)

R = TypeVar("R")

# Starts the call on a gateway with the given headers; the call continues after the last received
# response.
Start: TypeAlias = Callable[[Gateway, Metadata], aio.UnaryStreamCall[Any, R]]

# Status codes with which proxies and transports end a stream. A status from a gateway also has a
# reason.
_DISCONNECT_CODES: Final = {"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


class Stream(Generic[R]):
    """The responses of a stream.

    Waiting for a response can be cancelled: the stream continues, and the next wait returns the
    response. A stream without references ends.

    Args:
        gateways: the gateways to call.
        endless: whether the stream sends marks and ends only with an error. Other streams end
            normally and can be quiet for any length of time.
        first_retries: retries before the first response. None: only `resume_timeout` limits them.
        resume_timeout: maximum time to resume after the last response, in seconds.
        accept_timeout: longest wait for a gateway to accept the stream before the client tries the
            next gateway, in seconds. None: no limit.
        headers: the headers of the call.
        timing: the durations of streams.

    Attributes:
        resumes: the number of resumes.
    """

    def __init__(
        self,
        *,
        gateways: Gateways,
        endless: bool,
        first_retries: int | None,
        resume_timeout: float,
        accept_timeout: float | None,
        headers: Headers,
        timing: Timing,
    ) -> None:
        self.resumes = 0
        self._gateways = gateways
        self._endless = endless
        self._first_retries = self._retries_left = first_retries
        self._resume_timeout = resume_timeout
        self._accept_timeout = accept_timeout
        self._headers = headers
        # The headers of the current call; the headers that a gateway has rejected; and whether
        # they were renewed since the last response.
        self._sent: Metadata = ()
        self._rejected: Metadata | None = None
        self._has_renewed = False
        self._timing = timing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._backoff = timing.stream_backoff()
        self._gateway: Gateway | None = None
        self._call: aio.UnaryStreamCall[Any, R] | None = None
        self._reading: asyncio.Task[object] | None = None
        # The time of the first response to this call, by the event loop's clock.
        self._first_response_time: float | None = None
        # The time of the next attempt, by the event loop's clock.
        self._next_attempt_time = 0.0
        # The time at which retrying stops, by the event loop's clock.
        self._give_up_time: float | None = None
        self._has_responded = False
        self._has_waiter = False
        self._closing = asyncio.Event()
        _process.register(self)

    def abandon(self) -> object:
        """Drop the call in a forked child."""
        left = self._loop, self._reading, self._call, self._gateway
        self._loop = self._reading = self._call = self._gateway = None
        self._has_waiter = False
        return left

    def __del__(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._end_call(self._loop.call_soon_threadsafe)

    async def next(self, start: Start[R]) -> R | None:
        """Return the next response; None after the stream has ended.

        Args:
            start: starts the stream, and restarts it after a disconnect.

        Raises:
            CallError: the stream was rejected, or could not be resumed in time.
            Exception: an error of the token provider; the next call calls the provider again.
            ForkedProcess, WrongEventLoop: the stream cannot continue here.
            RuntimeError: another task is already waiting for the stream, or the client is
                closed.
        """
        self._gateways.check()
        if self._has_waiter:
            raise RuntimeError("another task is already waiting for this stream")
        self._has_waiter = True
        try:
            return await self._read_next(start)
        finally:
            self._has_waiter = False

    def reset_backoff(self) -> None:
        """Reset the backoff, because the last response contained new events."""
        self._backoff.reset()

    async def is_accepted(self) -> bool:
        """Return whether a gateway has accepted the stream, even if it has not responded yet."""
        return self._call is not None and await _accepts(self._call, 0.0)

    async def aclose(self) -> None:
        """End the stream; `next` returns None to a waiting task."""
        self._closing.set()
        reading = self._reading
        self._end_call(_call_now)
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_next(self, start: Start[R]) -> R | None:
        while not self._closing.is_set():
            try:
                if self._call is None:
                    await self._open(start)
                response = await self._read()
            except aio.AioRpcError as failure:
                proxy = self._gateway.proxy if self._gateway else ""
                self._schedule_retry(call_error(failure, proxy=proxy), failure)
            except Unavailable as failure:
                self._schedule_retry(failure, failure.__cause__)
            else:
                if response is not EOF:
                    return cast(R, response)
                if not self._endless or self._closing.is_set():
                    self._closing.set()
                    self._end_call(_call_now)
                    return None
                self._schedule_retry(_unavailable("the stream ended unexpectedly"), None)
        return None

    async def _open(self, start: Start[R]) -> None:
        self._loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._next_attempt_time):
                await self._closing.wait()
        headers = self._headers.current
        if headers is None or self._rejected is not None:
            headers = await self._renew_headers()
        if self._closing.is_set():
            return
        self._sent, self._rejected = headers, None
        self._gateway = self._gateways.current()
        self._call = start(self._gateway, headers)
        timeout = self._accept_timeout
        if timeout is not None and not await _accepts(self._call, timeout):
            raise _unavailable(f"the gateway did not accept the stream within {timeout:g} s")

    async def _renew_headers(self) -> Metadata:
        """Return new headers, or the rejected headers if the stream is closed first."""
        renewal = asyncio.ensure_future(self._headers.renew(self._rejected))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({renewal, closing}, return_when=asyncio.FIRST_COMPLETED)
            return renewal.result() if renewal.done() else self._sent
        finally:
            closing.cancel()
            renewal.cancel()

    async def _read(self) -> object:
        """Return the next response, or EOF.

        Raises:
            AioRpcError: the stream failed.
            Unavailable: the stream was silent for too long.
        """
        if self._call is None:
            return EOF
        if self._reading is None:
            self._reading = asyncio.create_task(self._call.read())
        reading = self._reading
        silence = self._timing.max_silence if self._endless else self._timing.health_check_after
        while not (await asyncio.wait({reading}, timeout=silence))[0]:
            if self._endless:
                raise _unavailable(f"the stream was silent for {silence:g} s")
            await self._check_health()
        self._reading = None
        if self._closing.is_set():
            return EOF
        response = reading.result()
        if response is not EOF:
            self._record_response()
        return response

    async def _check_health(self) -> None:
        """Check that the gateway responds.

        Raises:
            Unavailable: the gateway does not respond.
        """
        if self._gateway is None:
            return
        try:
            await self._gateway.health(health_request(""), timeout=self._timing.health_timeout)
        except aio.AioRpcError as failure:
            # Any other status shows that the gateway responds.
            if failure.code().name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                raise _unavailable("the gateway no longer responds") from failure

    def _record_response(self) -> None:
        self._give_up_time = self._retries_left = None
        self._has_renewed = False
        if self._first_response_time is None:
            self._first_response_time = asyncio.get_running_loop().time()
            self.resumes += self._has_responded
            self._has_responded = True

    def _schedule_retry(self, error: CallError, cause: BaseException | None) -> None:
        """Schedule the next attempt.

        Raises:
            CallError: the error is final, or the retry time has run out.
        """
        gateway, first_response_time = self._gateway, self._first_response_time
        self._end_call(_call_now)
        if self._closing.is_set():
            return
        now = asyncio.get_running_loop().time()
        was_stable = (
            first_response_time is not None
            and now - first_response_time >= self._timing.stable_after
        )
        if was_stable:
            self._backoff.reset()
        if first_response_time is not None and _was_slow(error, was_stable=was_stable):
            # The gateway is healthy, but this program was slow.
            wait = 0.0
        elif self._may_renew(error):
            self._rejected = self._sent
            self._has_renewed = True
            changed = isinstance(error, CredentialChanged)
            wait = self._backoff.next() if changed and not was_stable else 0.0
        elif gateway is not None and (_is_disconnect(error) or self._may_wait(error)):
            moved = self._gateways.switch_from(gateway)
            # The wait that a gateway requests applies only to that gateway.
            wait = self._backoff.next(None if moved else error.refusal.retry_after)
        else:
            self._reset_retries()
            raise error from cause
        if self._give_up_time is None:
            self._give_up_time = now + self._resume_timeout
        if self._retries_left == 0 or (wait and now + wait >= self._give_up_time):
            self._reset_retries()
            raise error from cause
        if self._retries_left is not None:
            self._retries_left -= 1
        self._next_attempt_time = now + wait

    def _reset_retries(self) -> None:
        """Restore the full number of retries and the full retry time for the next error."""
        self._retries_left = None if self._has_responded else self._first_retries
        self._give_up_time = None
        self._next_attempt_time = 0.0
        self._has_renewed = False
        self._backoff.reset()

    def _may_wait(self, error: CallError) -> bool:
        """Return whether a resumed stream may wait.

        Its own interrupted call can still count for a quota, and other callers at its address can
        use up the tokens that the gateway verifies.
        """
        return isinstance(error, QuotaExceeded | TokensThrottled) and self._has_responded

    def _may_renew(self, error: CallError) -> bool:
        """Return whether the stream may continue with a renewed credential.

        A credential that changed may still be valid, with other rights, so the stream tries it
        again even if the credential cannot be renewed.
        """
        if isinstance(error, CredentialChanged):
            return True
        renewable = self._headers.renewable and not self._has_renewed
        return isinstance(error, Unauthenticated) and renewable

    def _end_call(self, do: Callable[[Callable[[], object]], object]) -> None:
        """End the current call, if any.

        Args:
            do: runs a cancellation, either at once or in the thread of the event loop.
        """
        for part in (self._reading, self._call):
            if part is not None:
                do(part.cancel)
        self._reading = self._call = self._gateway = self._first_response_time = None


async def _accepts(call: aio.UnaryStreamCall[Any, Any], timeout: float) -> bool:  # noqa: ASYNC109
    """Return whether a gateway accepts a call in time, which means it sends initial metadata."""
    try:
        async with asyncio.timeout(timeout):
            await call.initial_metadata()
    except TimeoutError:
        return False
    return True


def _is_disconnect(error: CallError) -> bool:
    if isinstance(error, Unavailable | SlowConsumer):
        return True
    return not error.refusal.reason and error.refusal.code in _DISCONNECT_CODES


def _was_slow(error: CallError, *, was_stable: bool) -> bool:
    """Return whether a gateway ended the stream because this program did not read it."""
    # If the program does not read the error either, the gateway resets the call. The status is then
    # CANCELLED without a reason.
    reset = error.refusal.code == "CANCELLED" and not error.refusal.reason
    return isinstance(error, SlowConsumer) or (reset and was_stable)


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Refusal(code="UNAVAILABLE", message=message))


def _call_now(do: Callable[[], object]) -> None:
    do()
