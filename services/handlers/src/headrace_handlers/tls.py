"""The TLS settings of outgoing requests."""

from __future__ import annotations

import ssl
from functools import cache

import httpx2


@cache
def tls_context() -> ssl.SSLContext:
    """Trusts what the system trusts. It is made once, since that takes a tenth of a second."""
    return httpx2.create_ssl_context()
