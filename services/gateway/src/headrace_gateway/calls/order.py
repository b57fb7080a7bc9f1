"""Declares the order of the links."""

from __future__ import annotations

from typing import Final

from headrace_core.runtime.settings import Settings
from headrace_core.runtime.tracing import Tracing
from headrace_gateway.calls.addresses import Addresses
from headrace_gateway.calls.authenticate import Authenticate, Authenticator
from headrace_gateway.calls.authorize import Authorize, Sessions
from headrace_gateway.calls.chain import Chain
from headrace_gateway.calls.decode import Decode
from headrace_gateway.calls.drain import Drain
from headrace_gateway.calls.errors import Errors, Failures
from headrace_gateway.calls.limits import Limiter, Limits
from headrace_gateway.calls.meter import Meter
from headrace_gateway.calls.payload_reads import PayloadReads, ReadLog
from headrace_gateway.calls.permissions import NEEDS
from headrace_gateway.calls.request_ids import RequestIds
from headrace_gateway.calls.resets import Counts
from headrace_gateway.calls.sizes import Sizes
from headrace_gateway.calls.slow_readers import SlowReaders
from headrace_gateway.calls.timeouts import Timeouts
from headrace_gateway.calls.traces import Traces
from headrace_gateway.calls.traffic import Traffic

# The group commit limits the duration of these calls.
_SELF_LIMITED_METHODS: Final = frozenset(
    {"/headrace.v1.JobService/SubmitJob", "/headrace.v1.JobService/SubmitJobs"}
)

# The links that Headrace's servicers need. A gateway that lacks one does not start.
SERVICER_NEEDS: Final = (
    *("request id", "meter", "traffic", "address", "errors", "drain", "sizes", "authenticate"),
    *("authorize", "limits", "decode", "payload reads", "timeout", "slow readers"),
)
# The links around health and reflection. Probes are anonymous, and must still work during a drain.
FOREIGN_LINKS: Final = ("request id", "errors", "sizes", "decode")


def build_chain(
    settings: Settings,
    *,
    drain: Drain,
    counts: Counts,
    authenticator: Authenticator | None,
    sessions: Sessions,
    limiter: Limiter,
    traffic: Traffic,
    meter: Meter,
    failures: Failures,
    reads: ReadLog | None = None,
    tracing: Tracing | None = None,
) -> Chain:
    """Return the chain of a gateway, outermost link first.

    Args:
        settings: the limits.
        drain: the link that rejects calls once the gateway is stopping.
        counts: the counters of slow readers.
        authenticator: identifies principals; None if access control is off.
        sessions: receives the open streams.
        limiter: counts submits and streams by tenant.
        traffic: the link that counts the bytes of calls.
        meter: the link that measures the calls.
        failures: records the errors of calls.
        reads: receives the reads of payloads; None if access control is off.
        tracing: receives the spans of submits; None if the gateway writes none.

    Raises:
        ChainError: a link is missing or in the wrong position.
    """
    return Chain(
        (
            RequestIds(),
            meter,
            traffic,
            Addresses(settings.trusted_proxies),
            Errors(failures),
            drain,
            Sizes(max_request_bytes=settings.max_request_bytes),
            Authenticate(authenticator, NEEDS),
            Authorize(NEEDS, sessions),
            *(() if tracing is None else (Traces(tracing),)),
            Limits(limiter),
            Decode(),
            PayloadReads(reads),
            Timeouts(seconds=settings.call_timeout, bounded=_SELF_LIMITED_METHODS),
            SlowReaders(patience=settings.stream_patience, counts=counts),
        ),
        needs=SERVICER_NEEDS,
    )
