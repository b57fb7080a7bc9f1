"""The HTTP proxy from the environment."""

import socket

import pytest

from headrace import Client, Unavailable
from headrace._proxy import is_loopback, proxy_for

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def proxy(monkeypatch):
    """The address of a proxy that refuses connections, set in the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("http_proxy", f"http://user:secret@{address}")
        yield address


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "ipv4:127.0.0.1", "dns:///localhost"])
async def test_loopback_target_bypasses_the_proxy(server, host):
    async with Client(f"{host}:{server.port}", retries=0) as client:
        await client.ping()


async def test_cli_with_a_loopback_target_bypasses_the_proxy(start, proxy):
    process = await start("stats", env={"http_proxy": f"http://{proxy}"})
    _, err = await process.communicate()

    assert (process.returncode, err) == (0, b"")


@pytest.mark.parametrize("call", ["ping", "events", "watch"])
async def test_connection_error_names_the_proxy(proxy, call):
    async with Client("gateway.invalid:50051", retries=0, resume_timeout=0) as client:
        with pytest.raises(Unavailable) as caught:
            if call == "ping":
                await client.ping()
            elif call == "events":
                await anext(client.watch_job("1"))
            else:
                async with client.watch():
                    pass

    assert f"through the proxy http_proxy={proxy};" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_error_of_a_target_in_no_proxy_omits_the_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "example.org,.invalid")
    async with Client("gateway.invalid:50051", retries=0) as client:
        with pytest.raises(Unavailable) as caught:
            await client.ping()

    assert "proxy" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        ("127.0.0.1:50051", True),
        ("127.8.8.8:1", True),
        ("[::1]:50051", True),
        ("[::ffff:127.0.0.1]:50051", True),
        ("ipv6:[::1]:50051", True),
        ("localhost:50051", True),
        ("LOCALHOST", True),
        ("a.localhost.:1", True),
        ("dns://8.8.8.8/localhost:50051", True),
        ("unix:/run/headrace.sock", True),
        ("10.0.0.1:50051", False),
        ("localhost.example.org:50051", False),
        ("gateway:50051", False),
        ("[2001:db8::1]:50051", False),
        ("0.0.0.0:50051", False),
    ],
)
def test_loopback_target_is_recognized(target, loopback):
    assert is_loopback(target) is loopback


@pytest.mark.parametrize(
    ("environment", "target", "found"),
    [
        ({}, "gateway:1", "http_proxy=squid:3128"),
        ({"https_proxy": "http://tls:1"}, "gateway:1", "https_proxy=tls:1"),
        ({"https_proxy": "http://tls:1", "grpc_proxy": "http://g:2"}, "g:1", "grpc_proxy=g:2"),
        ({"no_proxy": "a.org, b.org"}, "x.b.org:1", ""),
        ({"no_proxy": "a.org,b.org"}, "c.org:1", "http_proxy=squid:3128"),
        ({"no_proxy": "10.0.0.0/8"}, "10.1.2.3:1", ""),
        ({"no_proxy": "10.0.0.0/8"}, "[2001:db8::1]:1", "http_proxy=squid:3128"),
        ({"no_grpc_proxy": "gateway", "no_proxy": "other"}, "gateway:1", ""),
        ({}, "127.0.0.1:1", ""),
        ({"http_proxy": ""}, "gateway:1", ""),
        ({"grpc_proxy": ""}, "gateway:1", ""),
        ({"https_proxy": "https://tls:1"}, "gateway:1", ""),
        ({"http_proxy": "squid:3128"}, "gateway:1", ""),
        ({"no_grpc_proxy": "", "no_proxy": "gateway"}, "gateway:1", "http_proxy=squid:3128"),
    ],
)
def test_proxy_of_a_target_matches_grpc(monkeypatch, environment, target, found):
    monkeypatch.setenv("http_proxy", "http://squid:3128")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert proxy_for(target) == found
