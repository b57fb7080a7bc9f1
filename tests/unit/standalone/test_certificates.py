"""The certificates of `headrace up --secure`."""

from __future__ import annotations

import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from headrace_standalone import certificates as module
from headrace_standalone.certificates import ensure_certificates
from headrace_standalone.embedded.folder import DataFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    with DataFolder.hold(tmp_path) as folder:
        yield folder


def names(file: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_certificate_is_signed_for_the_names_of_this_machine(folder: DataFolder) -> None:
    files = ensure_certificates(folder, host="gateway.example.com")
    assert {"localhost", "127.0.0.1", "::1", "gateway.example.com"} <= names(files.cert)
    authority = x509.load_pem_x509_certificate(files.ca.read_bytes())
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    certificate.verify_directly_issued_by(authority)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.cert, files.key)
    for file in (*files, files.ca.with_name("ca.key")):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert certificate.not_valid_after_utc - datetime.now(UTC) < timedelta(days=398)


def test_usable_certificate_is_kept(folder: DataFolder) -> None:
    before = ensure_certificates(folder, host="127.0.0.1").cert.read_bytes()
    assert ensure_certificates(folder, host="[::1]").cert.read_bytes() == before
    assert ensure_certificates(folder, host="0.0.0.0").cert.read_bytes() == before


def test_new_name_replaces_the_certificate_but_not_the_authority(folder: DataFolder) -> None:
    files = ensure_certificates(folder, host="127.0.0.1")
    ca, cert = files.ca.read_bytes(), files.cert.read_bytes()
    ensure_certificates(folder, host="example.com")
    assert files.ca.read_bytes() == ca
    assert files.cert.read_bytes() != cert
    assert "example.com" in names(files.cert)


def test_certificate_is_renewed_before_it_expires(
    folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ensure_certificates(folder, host="127.0.0.1")
    cert = files.cert.read_bytes()
    monkeypatch.setattr(module, "_RENEW_BEFORE", timedelta(days=400))
    ensure_certificates(folder, host="127.0.0.1")
    assert files.cert.read_bytes() != cert


def test_certificate_of_a_lost_authority_is_replaced(folder: DataFolder) -> None:
    files = ensure_certificates(folder, host="127.0.0.1")
    cert = files.cert.read_bytes()
    files.ca.unlink()
    ensure_certificates(folder, host="127.0.0.1")
    assert files.cert.read_bytes() != cert
