"""gRPC passes over an option that it does not know without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
from grpc._cython import cygrpc

from headrace import _gateways
from headrace_core.runtime.settings import Settings
from headrace_gateway import server


@pytest.fixture(scope="module")
def library() -> bytes:
    """The core of gRPC, which has the names of its options in it."""
    return Path(cygrpc.__file__).read_bytes()


@pytest.mark.parametrize("name", [name for name, _ in server._options(Settings())])
def test_what_the_gateway_sets_is_an_option(library: bytes, name: str):
    assert f"{name}\0".encode() in library


@pytest.mark.parametrize("name", [name for name, _ in _gateways._options("127.0.0.1:50051")])
def test_what_the_client_sets_is_an_option(library: bytes, name: str):
    assert f"{name}\0".encode() in library


def test_a_name_that_is_none_is_not_found(library: bytes):
    assert b"grpc.http2.min_recv_ping_interval_without_data_ms\0" not in library


def test_the_client_pings_no_more_often_than_the_gateway_lets_it():
    gateway, client = dict(server._options(Settings())), dict(_gateways._options("127.0.0.1:50051"))
    allowed = gateway["grpc.http2.min_ping_interval_without_data_ms"]
    assert client["grpc.keepalive_time_ms"] >= 2 * allowed
    # Half a minute each to find out that the other one is gone.
    for options in (gateway, client):
        assert options["grpc.http2.ping_timeout_ms"] == options["grpc.keepalive_timeout_ms"]
