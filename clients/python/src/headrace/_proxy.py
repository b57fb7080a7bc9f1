"""The HTTP proxy between client and gateway, from the environment variables that gRPC reads."""

from __future__ import annotations

import os
from ipaddress import ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

# gRPC takes the first variable that is set, even if its value is empty.
_PROXY_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES: Final = ("no_grpc_proxy", "no_proxy")


def is_loopback(target: str) -> bool:
    """Return whether a target is a loopback address or a Unix socket."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    host = _host(target)
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def proxy_for(target: str) -> str:
    """Return the proxy that gRPC uses for a target, as `http_proxy=host:port`, or ""."""
    if is_loopback(target):
        return ""
    name = _first_set_variable(_PROXY_VARIABLES)
    url = urlsplit(os.environ.get(name, ""))
    if url.scheme != "http":
        # gRPC ignores an empty value and any other scheme.
        return ""
    exceptions = os.environ.get(_first_set_variable(_NO_PROXY_VARIABLES), "")
    if any(_matches(_host(target), entry.strip()) for entry in exceptions.split(",")):
        return ""
    # Messages must not contain the proxy's user and password.
    return f"{name}={url.netloc.rpartition('@')[2]}"


def _first_set_variable(names: tuple[str, ...]) -> str:
    return next((name for name in names if name in os.environ), "")


def _host(target: str) -> str:
    """Return the host of `host:port`, `[::1]:port`, `dns:///host:port` or `ipv4:host:port`."""
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        target = target.removeprefix(scheme)
    if target.startswith("//"):
        target = target[2:].partition("/")[2]
    if target.startswith("["):
        return target[1:].partition("]")[0].lower()
    # An IPv6 address without brackets has no port.
    host = target if target.count(":") > 1 else target.partition(":")[0]
    return host.lower().rstrip(".")


def _matches(host: str, entry: str) -> bool:
    if not entry:
        return False
    if host.endswith(entry.lower()):
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False
