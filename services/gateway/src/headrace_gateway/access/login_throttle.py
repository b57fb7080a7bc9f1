"""Limits the failed logins of addresses and users.

Each address has a bucket, and each pair of user and address. A user has another bucket for all
addresses that the user has never used, so many addresses together cannot try many passwords. The
addresses that a user has used depend neither on that bucket nor on that of the address. Therefore
failed logins at other addresses, and those of other users, cannot lock the user out of them.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from headrace_core.domain.errors import LoginThrottled
from headrace_gateway.access.audit import host_of
from headrace_gateway.access.buckets import Buckets, Rate
from headrace_gateway.access.cache import TimedCache

_SIZE: Final = 10_000
# Seconds for which a gateway remembers that a user has used an address.
_KNOWN_AGE: Final = 7 * 86_400.0

# The rates of failures. An address can belong to many people.
_ADDRESS: Final = Rate(burst=30, seconds=2)
_STRANGE_PAIR: Final = Rate(burst=5, seconds=20)
_KNOWN_PAIR: Final = Rate(burst=10, seconds=10)
_STRANGERS: Final = Rate(burst=20, seconds=5)


class Account(NamedTuple):
    """The name of a user who may or may not exist."""

    tenant: str
    username: str


class LoginThrottle:
    """Rejects logins after too many failures. A login that succeeds costs nothing.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses: Buckets[str] = Buckets(_ADDRESS, size=_SIZE, clock=clock)
        self._strange_pairs: Buckets[tuple[Account, str]] = Buckets(
            _STRANGE_PAIR, size=_SIZE, clock=clock
        )
        self._known_pairs: Buckets[tuple[Account, str]] = Buckets(
            _KNOWN_PAIR, size=_SIZE, clock=clock
        )
        self._strangers: Buckets[Account] = Buckets(_STRANGERS, size=_SIZE, clock=clock)
        # The pairs that this gateway knows without a query.
        self._known: TimedCache[tuple[Account, str], None] = TimedCache(size=_SIZE, clock=clock)

    def check_address(self, account: Account, address: str) -> None:
        """Count a login of an address, before the query for the user.

        Raises:
            LoginThrottled: too many logins of this address have failed.
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
        _check(self._strange_pairs.take((account, address)))
        _check(self._strangers.take(account))

    def succeed(self, account: Account, address: str) -> None:
        """Take back the counts of a login that succeeded."""
        pair = (account, address)
        if self.knows(account, address):
            self._known_pairs.give_back(pair)
        else:
            self._strange_pairs.give_back(pair)
            self._strangers.give_back(account)
            self.remember(account, address)

    def knows(self, account: Account, address: str) -> bool:
        """Return whether this gateway knows that the user has used an address before."""
        return (account, address) in self._known

    def remember(self, account: Account, address: str) -> None:
        """Note that a user has used an address before; its logins do not count for the address."""
        if not self.knows(account, address):
            self._known.put((account, address), None, seconds=_KNOWN_AGE)
            self._addresses.give_back(address)


def read_address(peer: str) -> str:
    """Return the network address of a peer of gRPC, such as `ipv4:10.0.0.7:41234`.

    Returns:
        An IPv4 address, the /64 network of an IPv6 address because one customer has at least such a
        network, or the kind of other transports.
    """
    host = host_of(peer).partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
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
