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
from headrace._status import call_error
from headrace._timing import Timing
from headrace.errors import CallError, Refusal, SlowConsumer, Unavailable

R = TypeVar("R")

# Starts the call on a gateway, after the last received response.
Start: TypeAlias = Callable[[Gateway], aio.UnaryStreamCall[Any, R]]

# Status codes with which proxies and transports end a stream. A status from a gateway also has a
# reason.
_DISCONNECT_CODES: Final = {"CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN"}


class Stream(Generic[R]):
    """The responses of a stream.

    You can cancel a wait for a response: the stream continues, and the next wait returns the
    response. An unreferenced stream ends.

    Args:
        gateways: the gateways.
        endless: whether the stream ends only with an error and sends marks. Other streams end
            normally and can be quiet for any length of time.
        first_retries: retries before the first response. None: only `resume_timeout` limits them.
        resume_timeout: maximum time to resume after the last response, in seconds.
        accept_timeout: time for a gateway to accept the stream before the client tries the next
            gateway, in seconds. None: no limit.
        timing: the durations.

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
        timing: Timing,
    ) -> None:
        self.resumes = 0
        self._gateways = gateways
        self._endless = endless
        self._first_retries = self._retries_left = first_retries
        self._resume_timeout = resume_timeout
        self._accept_timeout = accept_timeout
        self._timing = timing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._backoff = timing.stream_backoff()
        self._gateway: Gateway | None = None
        self._call: aio.UnaryStreamCall[Any, R] | None = None
        self._reading: asyncio.Task[object] | None = None
        # Times on the event loop's clock: the first response of this call,
        self._answered: float | None = None
        # the next attempt,
        self._due = 0.0
        # and when to stop retrying.
        self._give_up: float | None = None
        self._started = False
        self._busy = False
        self._closing = asyncio.Event()
        _process.own(self)

    def abandon(self) -> object:
        """Drop the call in a forked child."""
        left = self._loop, self._reading, self._call, self._gateway
        self._loop = self._reading = self._call = self._gateway = None
        self._busy = False
        return left

    def __del__(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._drop(self._loop.call_soon_threadsafe)

    async def next(self, start: Start[R]) -> R | None:
        """Return the next response; None after the end of the stream.

        Args:
            start: starts the stream, and restarts it after a disconnect.

        Raises:
            CallError: the stream was refused, or could not be resumed in time.
            ForkedProcess, WrongEventLoop: the stream cannot continue here.
            RuntimeError: another task is already waiting for the stream, or the client is
                closed.
        """
        self._gateways.check()
        if self._busy:
            raise RuntimeError("another task is already waiting for this stream")
        self._busy = True
        try:
            return await self._next(start)
        finally:
            self._busy = False

    def progressed(self) -> None:
        """Reset the backoff, because the last response contained new events."""
        self._backoff.reset()

    async def accepted(self) -> bool:
        """Return whether a gateway has accepted the stream, perhaps without a response yet."""
        return self._call is not None and await _accepts(self._call, 0.0)

    async def aclose(self) -> None:
        """End the stream; a waiting task receives the end of the stream."""
        self._closing.set()
        reading = self._reading
        self._drop(_at_once)
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _next(self, start: Start[R]) -> R | None:
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
                    self._drop(_at_once)
                    return None
                self._schedule_retry(_unavailable("the stream ended unexpectedly"), None)
        return None

    async def _open(self, start: Start[R]) -> None:
        self._loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._due):
                await self._closing.wait()
        if self._closing.is_set():
            return
        self._gateway = self._gateways.current()
        self._call = start(self._gateway)
        timeout = self._accept_timeout
        if timeout is not None and not await _accepts(self._call, timeout):
            raise _unavailable(f"the gateway did not accept the stream within {timeout:g} s")

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
        silence = self._timing.silence if self._endless else self._timing.quiet
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
            await self._gateway.health(health_request(""), timeout=self._timing.answer)
        except aio.AioRpcError as failure:
            # Any other status is a response.
            if failure.code().name in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
                raise _unavailable("the gateway no longer responds") from failure

    def _record_response(self) -> None:
        self._give_up = self._retries_left = None
        if self._answered is None:
            self._answered = asyncio.get_running_loop().time()
            self.resumes += self._started
            self._started = True

    def _schedule_retry(self, error: CallError, cause: BaseException | None) -> None:
        """Schedule the next attempt.

        Raises:
            CallError: the error is final, or the retry time has run out.
        """
        gateway, answered = self._gateway, self._answered
        self._drop(_at_once)
        if self._closing.is_set():
            return
        now = asyncio.get_running_loop().time()
        steady = answered is not None and now - answered >= self._timing.steady
        if steady:
            self._backoff.reset()
        if answered is not None and _was_slow(error, steady=steady):
            # The gateway is healthy; this program was slow.
            wait = 0.0
        elif _is_disconnect(error) and gateway is not None:
            moved = self._gateways.leave(gateway)
            # The wait that a gateway requests applies only to that gateway.
            wait = self._backoff.next(None if moved else error.refusal.retry_after)
        else:
            self._reset_retries()
            raise error from cause
        if self._give_up is None:
            self._give_up = now + self._resume_timeout
        if self._retries_left == 0 or (wait and now + wait >= self._give_up):
            self._reset_retries()
            raise error from cause
        if self._retries_left is not None:
            self._retries_left -= 1
        self._due = now + wait

    def _reset_retries(self) -> None:
        """Restore the full number of retries and the full retry time for the next error."""
        self._retries_left = None if self._started else self._first_retries
        self._give_up = None
        self._due = 0.0
        self._backoff.reset()

    def _drop(self, do: Callable[[Callable[[], object]], object]) -> None:
        """End the current call, if any.

        Args:
            do: runs the cancellation, here or in the thread of the loop.
        """
        for part in (self._reading, self._call):
            if part is not None:
                do(part.cancel)
        self._reading = self._call = self._gateway = self._answered = None


async def _accepts(call: aio.UnaryStreamCall[Any, Any], timeout: float) -> bool:  # noqa: ASYNC109
    """Return whether a gateway accepts a call in time, that is, sends its initial metadata."""
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


def _was_slow(error: CallError, *, steady: bool) -> bool:
    """Return whether a gateway ended the stream because this program did not read it."""
    # If the program does not read the error either, the gateway resets the call: CANCELLED without
    # a reason.
    reset = error.refusal.code == "CANCELLED" and not error.refusal.reason
    return isinstance(error, SlowConsumer) or (reset and steady)


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Refusal(code="UNAVAILABLE", message=message))


def _at_once(do: Callable[[], object]) -> None:
    do()
