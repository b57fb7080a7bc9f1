"""Limits the failed logins of addresses and users.

Each address has a bucket, and so does each pair of user and address. All addresses that a user has
never used share one more bucket of that user, so many addresses together cannot try many passwords.
Logins from an address that the user has used before depend only on the bucket of the pair.
Therefore failed logins from other addresses, or of other users, cannot lock the user out.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from headrace_core.domain.errors import LoginThrottled
from headrace_gateway.access.buckets import Buckets, Rate
from headrace_gateway.access.cache import TimedCache

_SIZE: Final = 10_000
# Seconds for which a gateway remembers that a user has used an address.
_KNOWN_AGE: Final = 7 * 86_400.0

# The limits of failed logins. Many people can share an address.
_ADDRESS: Final = Rate(burst=30, seconds=2)
_NEW_PAIR: Final = Rate(burst=5, seconds=20)
_KNOWN_PAIR: Final = Rate(burst=10, seconds=10)
_NEW_ADDRESSES: Final = Rate(burst=20, seconds=5)


class Account(NamedTuple):
    """The name of a user who may or may not exist."""

    tenant: str
    username: str


class LoginThrottle:
    """Rejects logins after too many failures. Successful logins do not count.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses: Buckets[str] = Buckets(_ADDRESS, size=_SIZE, clock=clock)
        self._new_pairs: Buckets[tuple[Account, str]] = Buckets(_NEW_PAIR, size=_SIZE, clock=clock)
        self._known_pairs: Buckets[tuple[Account, str]] = Buckets(
            _KNOWN_PAIR, size=_SIZE, clock=clock
        )
        self._new_addresses: Buckets[Account] = Buckets(_NEW_ADDRESSES, size=_SIZE, clock=clock)
        # The pairs that this gateway knows without a query.
        self._known: TimedCache[tuple[Account, str], None] = TimedCache(size=_SIZE, clock=clock)

    def check_address(self, account: Account, address: str) -> None:
        """Count a login from an address, before the query for the user.

        Raises:
            LoginThrottled: too many logins from this address have failed.
        """
        if not self.knows(account, address):
            _check(self._addresses.take(address))

    def check_account(self, account: Account, address: str) -> None:
        """Count a login of a user, before the verification of the password.

        Raises:
            LoginThrottled: too many logins of this user have failed.
        """
        if self.knows(account, address):
            _check(self._known_pairs.take((account, address)))
            return
        _check(self._new_pairs.take((account, address)))
        _check(self._new_addresses.take(account))

    def succeed(self, account: Account, address: str) -> None:
        """Take back the counts of a login that succeeded."""
        pair = (account, address)
        if self.knows(account, address):
            self._known_pairs.give_back(pair)
        else:
            self._new_pairs.give_back(pair)
            self._new_addresses.give_back(account)
            self.remember(account, address)

    def knows(self, account: Account, address: str) -> bool:
        """Return whether this gateway knows that the user has used an address before."""
        return (account, address) in self._known

    def remember(self, account: Account, address: str) -> None:
        """Remember that a user has used an address; further logins do not count for the address."""
        if not self.knows(account, address):
            self._known.put((account, address), None, seconds=_KNOWN_AGE)
            self._addresses.give_back(address)


def throttled_address(host: str) -> str:
    """Return the address that is counted for a caller at `host`.

    Returns:
        An IPv4 address, the /64 network of an IPv6 address because one customer has at least such a
        network, or the kind of other transports.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
        address = address.ipv4_mapped
    return str(address)


def _check(wait: float) -> None:
    if wait:
        raise LoginThrottled(wait)
