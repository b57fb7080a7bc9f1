"""The link `errors`: turns each error of a call into a status and a log line."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar, Final, NoReturn, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import Message

from headrace_core.domain.errors import HeadraceError, Unavailable
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.exchange import Exchange, Method, Proceed
from headrace_gateway.calls.request_ids import REQUEST_ID, identify
from headrace_gateway.calls.statuses import DETAILS_KEY, CallError, to_call_error

_log = structlog.get_logger()

# Maximum number of log lines per status code in a period, and the length of a period in seconds.
_MAX_LINES: Final = 10
_PERIOD_S: Final = 10.0


class DeniedCalls(Protocol):
    """Receives denied calls."""

    def note_denied(
        self, path: str, error: Exception, *, call: Call | None, address: str, request: Any
    ) -> None:
        """Record a denied call; ignore errors of other kinds."""


class Failures:
    """Returns the status of each error, and records the error.

    Args:
        denied: receives the calls that ended with an error; None if they are not recorded.
    """

    def __init__(self, denied: DeniedCalls | None = None) -> None:
        self._denied = denied
        self._lines = FailureLog()

    def record(
        self,
        path: str,
        error: Exception,
        *,
        request_id: str,
        address: str,
        call: Call | None,
        request: Any,
    ) -> CallError:
        """Write the log line of an error, report a denied call, and return the status.

        Args:
            path: the path of the method.
            error: raised by a link, a use case or a stream.
            request_id: the request id of the call.
            address: the network address of the caller.
            call: the call; None if its principal is unknown.
            request: the message; None if it was not decoded.
        """
        status = to_call_error(error, request_id=request_id)
        self._log(path, status, error)
        if self._denied is not None:
            self._denied.note_denied(path, error, call=call, address=address, request=request)
        return status

    def _log(self, path: str, status: CallError, error: Exception) -> None:
        fields = {"code": status.code.name, "method": path, "reason": status.reason}
        if isinstance(error, Unavailable):
            self._lines.write("warning", **fields, error=str(error), cause=error.cause)
        elif status.code is grpc.StatusCode.INTERNAL:
            self._lines.write("error", **fields, exc_info=error)
        elif isinstance(error, HeadraceError):
            _log.debug("call_rejected", method=path, reason=status.reason)


class Errors:
    """Ends a call with the status of the error that a link or the servicer raised.

    Args:
        failures: records the errors.
    """

    name: ClassVar[str] = "errors"
    needs: ClassVar[tuple[str, ...]] = ("request id",)

    def __init__(self, failures: Failures) -> None:
        self._failures = failures

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that calls `proceed` and turns each error into a status."""

        async def proceed_or_abort(exchange: Exchange) -> Message | None:
            try:
                return await proceed(exchange)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.InternalError:
                # The client has closed the call, and gRPC is about to cancel it.
                raise asyncio.CancelledError from None
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                status = self._failures.record(
                    method.path,
                    error,
                    request_id=identify(exchange),
                    address=exchange.address,
                    call=getattr(exchange, "call", None),
                    request=exchange.request,
                )
            return await _abort(exchange, status)

        return proceed_or_abort


async def _abort(exchange: Exchange, status: CallError) -> NoReturn:
    """End a call with a status.

    gRPC keeps the exception of an abort in a reference cycle with the call, until the next garbage
    collection. The exception refers to the frames of the call, so these frames must not refer to
    the request. For the same reason, an abort must not run in an `except` block.
    """
    exchange.release()
    exchange.code = status.code
    try:
        await exchange.context.abort(
            status.code,
            status.message,
            ((REQUEST_ID, exchange.request_id), (DETAILS_KEY, status.serialize())),
        )
    except grpc.aio.InternalError:
        # The client closed the call before it received the status.
        raise asyncio.CancelledError from None


class FailureLog:
    """Writes `call_failed` lines, up to a limit for each status code in a period.

    An outage fails thousands of calls a second for the same reason. A `calls_failed` line at the
    end of the period reports the number of omitted lines.

    Args:
        lines: the maximum number of lines per code in a period.
        period: the length of a period, in seconds.
    """

    def __init__(self, *, lines: int = _MAX_LINES, period: float = _PERIOD_S) -> None:
        self._lines = lines
        self._period = period
        self._counts: Counter[str] = Counter()

    def write(self, level: str, *, code: str, **fields: Any) -> None:
        """Write a line, or count it.

        Args:
            level: the log level.
            code: the name of the status code.
            fields: the other fields of the line.
        """
        if not self._counts[code]:
            asyncio.get_running_loop().call_later(self._period, self._end_period, code)
        self._counts[code] += 1
        if self._counts[code] <= self._lines:
            getattr(_log, level)("call_failed", code=code, **fields)

    def _end_period(self, code: str) -> None:
        omitted = self._counts.pop(code) - self._lines
        if omitted > 0:
            _log.warning("calls_failed", code=code, not_logged=omitted, period_s=self._period)
