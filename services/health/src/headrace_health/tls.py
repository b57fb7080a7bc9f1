"""TLS for servers, with certificates that are reloaded when their files change."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import grpc
import grpc.aio
import structlog

from headrace_core.runtime.settings import Settings, StartRefused

_log = structlog.get_logger()

_Stamp = tuple[tuple[int, int, int], ...]


class _Loaded(NamedTuple):
    """The content of the files, and its number, which increases with each change.

    `expire_time` is the earliest end of a certificate of the chain, in seconds since 1970.
    """

    number: int
    cert: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext
    expire_time: float

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.key, self.cert)], root_certificates=self.client_ca
        )


class CertificateFiles:
    """The certificate of a server.

    The files are checked at each handshake. A new certificate applies to new connections. While the
    new certificate and key do not match, the previous certificate stays in use.

    Args:
        cert: the certificate and its chain.
        key: the private key, without a password.
        client_ca: the CA certificates that verify clients; None to request no client certificate.

    Raises:
        StartRefused: the files cannot be used.
    """

    def __init__(self, *, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        # gRPC calls from several threads.
        self._lock = threading.Lock()
        try:
            self._stamp = self._read_stamp()
            self._loaded = self._load(0)
        except (OSError, ValueError) as error:
            raise StartRefused(self._describe(error)) from error

    @classmethod
    def of(cls, settings: Settings) -> CertificateFiles | None:
        """Return the configured certificate; None without TLS.

        Raises:
            StartRefused: the files cannot be used.
        """
        if not settings.tls_cert:
            return None
        client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
        return cls(cert=Path(settings.tls_cert), key=Path(settings.tls_key), client_ca=client_ca)

    def credentials(self, *, requires_client_certificate: bool = False) -> grpc.ServerCredentials:
        """Return the credentials of a port."""
        loaded = self._current()
        return grpc.dynamic_ssl_server_credentials(
            loaded.configuration(),
            self._changes_after(loaded.number),  # type: ignore[arg-type] # None: unchanged
            requires_client_certificate,
        )

    def ssl_context(self) -> ssl.SSLContext:
        """Return the context of a server without gRPC; it requests no client certificate.

        A connection uses the files that are current at its handshake.
        """
        context = self._current().context

        def use_current(connection: ssl.SSLObject, *_: object) -> None:
            connection.context = self._current().context

        # OpenSSL calls this function at each handshake, even if the client names no server.
        context.sni_callback = use_current
        return context

    @property
    def expire_time(self) -> float:
        """The earliest end of a certificate of the chain, in seconds since 1970."""
        return self._current().expire_time

    def _changes_after(
        self, number: int
    ) -> Callable[[], grpc.ServerCertificateConfiguration | None]:
        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal number
            loaded = self._current()
            if loaded.number == number:
                return None
            number = loaded.number
            return loaded.configuration()

        return fetch

    def _current(self) -> _Loaded:
        with self._lock:
            try:
                stamp = self._read_stamp()
                if stamp != self._stamp:
                    # A failed read is repeated only after another change.
                    self._stamp = stamp
                    self._loaded = self._load(self._loaded.number + 1)
                    _log.info("certificate_reloaded", file=str(self._cert))
            except FileNotFoundError:
                # The files are being replaced.
                self._stamp = ()
            except (OSError, ValueError) as error:
                _log.warning("certificate_rejected", reason=self._describe(error))
            return self._loaded

    def _read_stamp(self) -> _Stamp:
        files = [self._cert, self._key, *([self._client_ca] if self._client_ca else [])]
        return tuple(
            (stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in map(Path.stat, files)
        )

    def _load(self, number: int) -> _Loaded:
        """Read the files.

        Raises:
            OSError: a file cannot be read. ssl.SSLError is an OSError too.
            ValueError: the files changed while they were read.
        """
        before = self._read_stamp()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        cert = self._cert.read_bytes()
        loaded = _Loaded(
            number,
            cert=cert,
            key=self._key.read_bytes(),
            client_ca=self._client_ca.read_bytes() if self._client_ca else None,
            context=context,
            expire_time=_expire_time(cert),
        )
        # If no password is given, OpenSSL prompts for one on the terminal.
        context.load_cert_chain(self._cert, self._key, password="")
        if self._client_ca:
            context.load_verify_locations(self._client_ca)
        if self._read_stamp() != before:
            raise ValueError("the files changed while they were read")
        return loaded

    def _describe(self, error: Exception) -> str:
        names = f"HEADRACE_TLS_CERT={self._cert}, HEADRACE_TLS_KEY={self._key}"
        if self._client_ca:
            names += f", HEADRACE_TLS_CLIENT_CA={self._client_ca}"
        reason = _OPENSSL_REASONS.get(getattr(error, "reason", None) or "", str(error))
        return f"the TLS certificate cannot be used ({names}): {reason}"


_OPENSSL_REASONS: Final = {
    "KEY_VALUES_MISMATCH": "the key does not belong to the certificate",
    "NO_CERTIFICATE_OR_CRL_FOUND": "HEADRACE_TLS_CLIENT_CA contains no certificate",
}


def _expire_time(chain: bytes) -> float:
    from cryptography import x509  # noqa: PLC0415 - services without TLS do not load it

    return min(
        certificate.not_valid_after_utc.timestamp()
        for certificate in x509.load_pem_x509_certificates(chain)
    )


def metrics_context(
    settings: Settings, certificate: CertificateFiles | None
) -> ssl.SSLContext | None:
    """Return the TLS context of the metrics of a process with this certificate; None for no TLS."""
    return None if certificate is None or settings.plain_metrics else certificate.ssl_context()


def add_port(
    server: grpc.aio.Server,
    address: str,
    files: CertificateFiles | None,
    *,
    requires_client_certificate: bool = False,
) -> int:
    """Add a port to a server, and return its number.

    Args:
        server: the server, before its start.
        address: `host:port`; port 0 selects a free port.
        files: the certificate; None for no TLS.
        requires_client_certificate: whether clients need a certificate.

    Raises:
        RuntimeError: the address cannot be bound.
    """
    if files is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(
        address, files.credentials(requires_client_certificate=requires_client_certificate)
    )
