"""Free ports on loopback."""

from __future__ import annotations

import random
import socket

# The range is below the ports of outgoing connections (from 32768 on Linux, from 49152 elsewhere).
# Otherwise a client that reconnects to a stopped server can get the server's port as its local
# port, connect to itself, and block the restart of the server.
_FIRST, _LAST = 20_000, 32_767

# The ports returned so far. Their servers may not have started yet.
_returned_ports: set[int] = set()


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1; each call returns a different port.

    Raises:
        OSError: no port is free.
    """
    for port in random.sample(range(_FIRST, _LAST + 1), 200):
        if port not in _returned_ports and is_free("127.0.0.1", port):
            _returned_ports.add(port)
            return port
    raise OSError(f"no free port from {_FIRST} to {_LAST} on 127.0.0.1")


def is_free(host: str, port: int) -> bool:
    """Return whether a server can listen on this address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
