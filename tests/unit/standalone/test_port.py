"""Ports for servers that are to come back on the same one."""

from __future__ import annotations

import socket

from headrace_standalone.embedded.port import free_port, is_free


def test_each_call_gives_another_port_that_no_outgoing_connection_gets() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free("127.0.0.1", port)
    assert is_free("127.0.0.1", port)
