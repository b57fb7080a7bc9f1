"""TLS options of a client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

_Path: TypeAlias = str | PathLike[str]

_TRUE: Final = {"1", "true", "yes", "on"}
_FALSE: Final = {"", "0", "false", "no", "off"}


class _Files(NamedTuple):
    """The contents of the files of `TLS`."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None

    def __repr__(self) -> str:
        return "<the contents of TLS files>"


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """The certificates of a client, as paths of PEM files.

    If a connection fails and a file has changed, the client reads the files again.

    Args:
        ca: the CA certificates that verify gateways. None: the public CAs that gRPC includes.
        cert: the certificate chain of the client, for gateways that request client certificates.
        key: the private key of `cert`.

    Raises:
        ValueError: only one of `cert` and `key` is set.
    """

    ca: _Path | None = None
    cert: _Path | None = None
    key: _Path | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            missing = "key" if self.key is None else "cert"
            raise ValueError(f"TLS has no {missing}; a client certificate needs both cert and key")

    def read(self) -> _Files:
        """Return the contents of the files.

        Raises:
            OSError: a file cannot be read.
        """
        return _Files(
            *(None if path is None else Path(path).read_bytes() for path in self._paths())
        )

    def versions(self) -> tuple[tuple[int, int, int], ...]:
        """Return values that change when a file changes.

        Raises:
            OSError: a file does not exist.
        """
        found = [os.stat(path) for path in self._paths() if path is not None]  # noqa: PTH116
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)

    def _paths(self) -> tuple[_Path | None, _Path | None, _Path | None]:
        return self.ca, self.cert, self.key


def resolve_tls(tls: TLS | bool | None) -> TLS | None:
    """Return the TLS options of a client; None for plaintext.

    Args:
        tls: the argument of the client. None: read the environment variables HEADRACE_TLS and
            HEADRACE_TLS_CA, HEADRACE_TLS_CERT and HEADRACE_TLS_KEY.

    Raises:
        OSError: a file cannot be read.
        ValueError: HEADRACE_TLS is not a boolean, or only one of certificate and key is set.
    """
    if tls is None:
        tls = _tls_of_environment()
    elif isinstance(tls, bool):
        tls = TLS() if tls else None
    if tls is not None:
        # Report an unreadable file now instead of at the first call.
        tls.read()
    return tls


def _tls_of_environment() -> TLS | None:
    wanted = os.environ.get("HEADRACE_TLS", "").lower()
    if wanted not in _TRUE | _FALSE:
        raise ValueError(f"HEADRACE_TLS is {wanted!r}; use true or false")
    ca, cert, key = (
        os.environ.get(f"HEADRACE_TLS_{part}") or None for part in ("CA", "CERT", "KEY")
    )
    if wanted in _FALSE - {""}:
        return None
    return TLS(ca=ca, cert=cert, key=key) if wanted or ca or cert or key else None
