"""The client certificate of a connection, as gRPC describes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from headrace_core.domain.certificate import parse_san

# The names of gRPC's properties of a verified client certificate.
PEM: Final = "x509_pem_cert"
_URIS: Final = "peer_uri"
_HOSTS: Final = "peer_dns"
# A certificate can have thousands of names; only the first ones count.
_MAX_NAMES: Final = 20


def certificate_properties(context: Mapping[str, Any]) -> dict[str, tuple[bytes, ...]]:
    """Return the properties of a verified client certificate; empty without one.

    Args:
        context: gRPC's properties of the connection.
    """
    # gRPC sets this property only if it verified a certificate.
    return {key: tuple(values) for key, values in context.items()} if PEM in context else {}


def certificate_names(properties: Mapping[str, tuple[bytes, ...]]) -> tuple[str, ...]:
    """Return the names of a certificate that can have a binding."""
    found = []
    for kind, values in (("uri", properties.get(_URIS, ())), ("dns", properties.get(_HOSTS, ()))):
        for value in values:
            try:
                found.append(parse_san(f"{kind}:{value.decode('ascii')}"))
            except ValueError:
                continue
    return tuple(found[:_MAX_NAMES])
