"""Certificate files of a test's own certificate authority."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from grpc import ChannelCredentials, ssl_channel_credentials

from headrace_core.runtime.settings import Settings

_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """The PEM files of a certificate and its private key."""

    cert: Path
    key: Path


class Authority:
    """A certificate authority whose files are in a folder.

    Args:
        folder: an existing folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = trustme.CA()
        self.pem = authority.cert_pem.bytes()
        self._key = cast(
            "ec.EllipticCurvePrivateKey",
            load_pem_private_key(authority.private_key_pem.bytes(), password=None),
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.pem)

    def issue(
        self, file: str, *names: str, uris: Sequence[str] = (), lifetime: timedelta = _YEAR
    ) -> CertificateFile:
        """Issue a certificate, or replace the files of an earlier one.

        Args:
            file: the name of the files.
            names: host names and addresses.
            uris: URIs, which trustme does not support.
            lifetime: the time until the certificate expires.
        """
        issuer = x509.load_pem_x509_certificate(self.pem)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + lifetime)
            .add_extension(
                x509.SubjectAlternativeName(
                    [
                        *(x509.UniformResourceIdentifier(uri) for uri in uris),
                        *(_name(name) for name in names),
                    ]
                ),
                critical=True,
            )
            .sign(self._key, hashes.SHA256())
        )
        files = CertificateFile(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        files.cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files.key.chmod(0o600)
        return files

    def server(self, file: str = "server") -> CertificateFile:
        """Issue a certificate for this machine's loopback names."""
        return self.issue(file, "localhost", "127.0.0.1")

    def credentials(self, client: CertificateFile | None = None) -> ChannelCredentials:
        """Return credentials that trust this authority, with an optional client certificate."""
        if client is None:
            return ssl_channel_credentials(self.pem)
        return ssl_channel_credentials(self.pem, client.key.read_bytes(), client.cert.read_bytes())


def with_tls(settings: Settings, server: CertificateFile, **changes: object) -> Settings:
    """Return settings with the certificate of a server."""
    return settings.model_copy(
        update={"tls_cert": str(server.cert), "tls_key": str(server.key), **changes}
    )


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
