"""A probe of a service that serves its health over HTTP."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from urllib.parse import urlsplit


def probe_http(url: str, *, timeout: float, ca: Path | None = None, name: str = "") -> bool:
    """Return whether the server at `url` answers and reports that it is healthy.

    Args:
        url: the scheme and the address, such as `https://127.0.0.1:8080`.
        timeout: the time limit of each step of the request, in seconds.
        ca: the PEM file of the CA, or of the certificate itself; None for the CAs of the system.
        name: the name in the server's certificate; empty for the host of the URL.

    Raises:
        OSError: the CA file cannot be read.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        # Trust the certificate of the server itself like a CA.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        connection = _NamedConnection(host, port, timeout=timeout, context=context, name=name)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _NamedConnection(http.client.HTTPSConnection):
    """A connection that expects a given name in the certificate of the server."""

    def __init__(
        self, host: str, port: int | None, *, timeout: float, context: ssl.SSLContext, name: str
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls_context = context
        self._name = name or host

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls_context.wrap_socket(self.sock, server_hostname=self._name)
