"""gRPC ignores options that it does not know, so each name is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from headrace import _gateways
from headrace_core.runtime.settings import Settings
from headrace_gateway.grpc.server import server_options


@pytest.fixture(scope="module")
def library() -> bytes:
    """The gRPC core library, which contains the option names."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in server_options(Settings())])
def test_gateway_option_is_known_to_grpc(library: bytes, name: str):
    assert f"{name}\0".encode() in library


@pytest.mark.parametrize(
    "name", [name for name, _ in _gateways._channel_options("127.0.0.1:50051")]
)
def test_client_option_is_known_to_grpc(library: bytes, name: str):
    assert f"{name}\0".encode() in library


def test_unknown_option_is_not_found(library: bytes):
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms\0" not in library


def test_gateway_and_client_detect_dead_peers_equally_fast():
    for options in (
        dict(server_options(Settings())),
        dict(_gateways._channel_options("127.0.0.1:50051")),
    ):
        assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"]
