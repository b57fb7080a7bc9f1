"""Token buckets: rate limits that allow short bursts."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate limit.

    Attributes:
        burst: the number of tokens in a full bucket.
        seconds: the seconds until a bucket gets its next token.
    """

    burst: int
    seconds: float


class Buckets(Generic[K]):
    """A bounded number of token buckets.

    Args:
        rate: the rate of each bucket.
        size: the maximum number of buckets. Full buckets do not count, because they equal new ones.
            Beyond the maximum, all new keys share one bucket.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, rate: Rate, *, size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._size = size
        self._clock = clock
        # The time at which each bucket will be full; the least recently used bucket first.
        self._full: dict[K | _Shared, float] = {}

    def __len__(self) -> int:
        return len(self._full)

    def take(self, key: K) -> float:
        """Take a token from a bucket.

        Returns:
            0 if the bucket had a token; otherwise the seconds until it has one.
        """
        bucket, full, wait = self._next_token(key)
        if wait:
            return wait
        self._full.pop(bucket, None)
        self._full[bucket] = full
        return 0.0

    def wait(self, key: K) -> float:
        """Return the seconds until a bucket has a token; 0 if it has one now."""
        return self._next_token(key)[2]

    def give_back(self, key: K) -> None:
        """Return a token to a bucket."""
        bucket = key if key in self._full else _SHARED
        if bucket in self._full:
            self._full[bucket] -= self._rate.seconds

    def _next_token(self, key: K) -> tuple[K | _Shared, float, float]:
        """Return the bucket of a key, the time at which it is full without its next token, and the
        seconds until it has this token.
        """
        now = self._clock()
        bucket = self._bucket_of(key, now)
        full = max(self._full.get(bucket, now), now) + self._rate.seconds
        wait = full - now - self._rate.burst * self._rate.seconds
        # Tolerate rounding errors of the sums.
        return bucket, full, wait if wait > _EPSILON else 0.0

    def _bucket_of(self, key: K, now: float) -> K | _Shared:
        """Return the key of the bucket that counts for `key`; remove full buckets if necessary."""
        if key in self._full or len(self._full) < self._size:
            return key
        while self._full:
            oldest = next(iter(self._full))
            if self._full[oldest] > now:
                break
            del self._full[oldest]
        return key if len(self._full) < self._size else _SHARED


class _Shared:
    """The key of the bucket that new keys share while there are too many buckets."""


_SHARED: Final = _Shared()
_EPSILON: Final = 1e-6
