"""The link `limits`: rejects submits and streams beyond the quotas of a tenant."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractContextManager
from typing import ClassVar, Final, Protocol

from google.protobuf.message import Message

from headrace_gateway.calls.exchange import Exchange, Method, Proceed

_JOBS: Final = "/headrace.v1.JobService/"
# The RPCs that submit jobs, except SubmitJobs, whose entries are counted one by one. The use case
# counts the further jobs of a batch.
_SUBMITS: Final = frozenset(
    {f"{_JOBS}SubmitJob", f"{_JOBS}BatchSubmitJobs", f"{_JOBS}SubmitAndWatch"}
)


class Limiter(Protocol):
    """Counts submits and streams by tenant."""

    def take_submit(self, tenant: str) -> None:
        """Count a submit of one job.

        Raises:
            QuotaExceeded: the tenant has submitted too many jobs.
        """

    def stream(self, tenant: str) -> AbstractContextManager[None]:
        """Count an open stream while the block runs.

        Raises:
            QuotaExceeded: the tenant has too many open streams.
        """


class Limits:
    """Rejects calls beyond the quotas of their tenant, before they are decoded.

    Args:
        limiter: counts submits and streams.
    """

    name: ClassVar[str] = "limits"
    needs: ClassVar[tuple[str, ...]] = ("authorize",)

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    def wrap(self, method: Method, proceed: Proceed) -> Proceed:
        """Return a function that counts the call and calls `proceed`."""
        if method.streams_responses:
            proceed = self._counted(proceed)
        if method.path not in _SUBMITS:
            return proceed
        take_submit = self._limiter.take_submit

        def limit(exchange: Exchange) -> Awaitable[Message | None]:
            take_submit(exchange.call.tenant)
            return proceed(exchange)

        return limit

    def _counted(self, proceed: Proceed) -> Proceed:
        async def counted(exchange: Exchange) -> Message | None:
            with self._limiter.stream(exchange.call.tenant):
                return await proceed(exchange)

        return counted
