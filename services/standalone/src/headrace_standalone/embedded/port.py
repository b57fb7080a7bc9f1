"""Free ports on loopback."""

from __future__ import annotations

import random
import socket

# Below the ports that systems give to outgoing connections (from 32768 on Linux, from 49152
# elsewhere). A client that keeps trying to reach a server that is down would otherwise get the
# server's own port as its local one sooner or later, be connected to itself, and so keep the server
# from coming back.
_FIRST, _LAST = 20_000, 32_767

# What was given away and may not be in use yet.
_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at the moment; another one at each call.

    Raises:
        OSError: none was found.
    """
    for port in random.sample(range(_FIRST, _LAST + 1), 200):
        if port not in _given and is_free("127.0.0.1", port):
            _given.add(port)
            return port
    raise OSError(f"no free port from {_FIRST} to {_LAST} on 127.0.0.1")


def is_free(host: str, port: int) -> bool:
    """Whether somebody could listen on this address now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
