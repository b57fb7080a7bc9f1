"""The certificates of `headrace up --secure`, signed by a CA in the data folder."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace_standalone.embedded.folder import DataFolder, write_private

_CA_LIFETIME: Final = timedelta(days=3650)
# Some clients reject certificates that are valid for more than 398 days.
_LIFETIME: Final = timedelta(days=397)
# A certificate with less time left is replaced at the next start.
_RENEW_BEFORE: Final = timedelta(days=90)
# Certificates start in the past, because the clocks of machines differ.
_BACKDATE: Final = timedelta(hours=1)


class Certificates(NamedTuple):
    """PEM files: the CA, and the certificate of the gateway with its key."""

    ca: Path
    cert: Path
    key: Path


def ensure_certificates(folder: DataFolder, *, host: str) -> Certificates:
    """Return the certificates of a data folder, created or renewed if necessary.

    Args:
        folder: the locked data folder.
        host: the host name or address of the gateway, in addition to those of this machine.
    """
    path = folder.path / "tls"
    path.mkdir(mode=0o700, exist_ok=True)
    files = Certificates(path / "ca.pem", path / "server.pem", path / "server.key")
    ca_key = path / "ca.key"
    if not (files.ca.exists() and ca_key.exists()):
        _create_authority(files.ca, ca_key)
    names = _names(host)
    if not _is_usable(files, names):
        _issue(files, ca_key, names)
    return files


def _create_authority(file: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Headrace local authority")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    # The certificate is written last, so it always has its key.
    _replace(key_file, _key_text(key))
    _replace(file, certificate.public_bytes(Encoding.PEM).decode())


def _issue(files: Certificates, ca_key_file: Path, names: frozenset[str]) -> None:
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = cast(
        "ec.EllipticCurvePrivateKey",
        load_pem_private_key(ca_key_file.read_bytes(), password=None),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Headrace gateway")]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in sorted(names)]),
            critical=False,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    files.cert.unlink(missing_ok=True)
    _replace(files.key, _key_text(key))
    _replace(files.cert, certificate.public_bytes(Encoding.PEM).decode())


def _is_usable(files: Certificates, names: frozenset[str]) -> bool:
    """Return whether the current CA signed the certificate for these names and long enough."""
    if not (files.cert.exists() and files.key.exists()):
        return False
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 - any error means another CA
        return False
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return certificate.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE and names <= {
        str(name.value) for name in found
    }


def _names(host: str) -> frozenset[str]:
    """Return the names under which clients reach the gateway."""
    names = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower(), host.strip("[]")}
    return frozenset(names - {"", "0.0.0.0", "::"})  # noqa: S104 - they mean every address


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _replace(file: Path, text: str) -> None:
    """Write a private file; its old content stays until the new one is complete."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    write_private(draft, text)
    draft.replace(file)
