"""Limits the rejected tokens of each address, because the check of a signature takes CPU time.

Each address has a bucket of rejected tokens. While the bucket is empty, only tokens of subjects
that this gateway has verified at the address before are checked; each of them has its own bucket.
Therefore forged tokens do not lock out the other callers behind a shared address. Cached
credentials are not checked again, so they never depend on a bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from headrace_core.domain.errors import TokensThrottled
from headrace_gateway.access.buckets import Buckets, Rate
from headrace_gateway.access.cache import TimedCache
from headrace_gateway.access.login_throttle import throttled_address
from headrace_gateway.access.unverified import read_claims

_SIZE: Final = 10_000
# A check takes about 0.2 ms, so this rate takes 0.4 % of a processor for each address.
_RATE: Final = Rate(burst=100, seconds=0.05)
# Seconds for which a gateway remembers the subjects of an address.
_KNOWN_AGE: Final = 86_400.0

# An address, the issuer of a token and its subject.
_Caller = tuple[str, str, str]


class TokenThrottle:
    """Rejects tokens without a check after too many rejected ones. A valid token costs nothing.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses: Buckets[str] = Buckets(_RATE, size=_SIZE, clock=clock)
        self._callers: Buckets[_Caller] = Buckets(_RATE, size=_SIZE, clock=clock)
        self._known: TimedCache[_Caller, None] = TimedCache(size=_SIZE, clock=clock)

    def check(self, host: str, token: str) -> None:
        """Check that a token of a host may be verified.

        Raises:
            TokensThrottled: too many tokens of this address were rejected.
        """
        address = throttled_address(host)
        wait = self._addresses.wait(address)
        if not wait:
            return
        caller = _caller(address, token)
        if caller in self._known:
            wait = self._callers.wait(caller)
        if wait:
            raise TokensThrottled(wait)

    def accept(self, host: str, token: str) -> None:
        """Remember that a verified token was valid."""
        self._known.put(_caller(throttled_address(host), token), None, seconds=_KNOWN_AGE)

    def reject(self, host: str, token: str) -> None:
        """Count a token whose verification failed."""
        address = throttled_address(host)
        caller = _caller(address, token)
        if caller in self._known:
            self._callers.take(caller)
        else:
            self._addresses.take(address)


def _caller(address: str, token: str) -> _Caller:
    claims = read_claims(token)
    return address, str(claims.get("iss")), str(claims.get("sub"))
