"""TLS between client and gateway, with certificates from a test CA."""

import grpc
import pytest
import trustme

from headrace import TLS, Client, Unavailable


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


class Files:
    """The PEM files of the client."""

    def __init__(self, folder, authority):
        client = authority.issue_cert("client.example.com")
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca)
        client.private_key_pem.write_to_path(self.key)
        for number, pem in enumerate(client.cert_chain_pems):
            pem.write_to_path(self.cert, append=number > 0)


@pytest.fixture
def files(tmp_path, authority):
    return Files(tmp_path, authority)


def server_credentials(authority, *, mutual):
    certificate = authority.issue_cert("localhost")
    pair = (
        certificate.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in certificate.cert_chain_pems),
    )
    return grpc.ssl_server_credentials(
        [pair],
        root_certificates=authority.cert_pem.bytes() if mutual else None,
        require_client_auth=mutual,
    )


@pytest.fixture
async def start_server(platform, authority):
    """A function that starts a gateway with TLS and returns its target."""
    servers = []

    async def start(*, mutual=False):
        server = grpc.aio.server(interceptors=[platform._calls])
        for service, add in platform.services():
            add(service, server)
        port = server.add_secure_port("localhost:0", server_credentials(authority, mutual=mutual))
        await server.start()
        servers.append(server)
        return f"localhost:{port}"

    yield start
    for server in servers:
        await server.stop(None)


async def test_client_verifies_the_gateway(start_server, files, platform):
    target = await start_server()
    async with Client(target, tls=TLS(ca=files.ca), api_key="key") as client:
        await client.stats()
        async with client.watch():
            pass

    assert [call.credential for call in platform.received_calls] == ["key", "key"]


async def test_unknown_authority_is_rejected(start_server, files, tmp_path, platform):
    target = await start_server()
    other = tmp_path / "other"
    trustme.CA().cert_pem.write_to_path(str(other))
    for tls in (TLS(ca=other), True):
        async with Client(target, tls=tls, retries=0) as client:
            with pytest.raises(Unavailable, match=r"(?i)certificate_verify_failed|handshake"):
                await client.stats()

    assert platform.received_calls == []


async def test_plaintext_client_cannot_call_a_gateway_with_tls(start_server):
    async with Client(await start_server(), retries=0) as client:
        with pytest.raises(Unavailable):
            await client.stats()


async def test_client_sends_its_certificate(start_server, files):
    target = await start_server(mutual=True)
    async with Client(target, tls=TLS(ca=files.ca), retries=0) as client:
        with pytest.raises(Unavailable):
            await client.stats()
    async with Client(target, tls=TLS(ca=files.ca, cert=files.cert, key=files.key)) as client:
        await client.stats()


async def test_renewed_certificates_are_used_after_a_failure(start_server, authority, tmp_path):
    target = await start_server(mutual=True)
    files = Files(tmp_path, trustme.CA())
    tls = TLS(ca=files.ca, cert=files.cert, key=files.key)
    async with Client(target, tls=tls, retries=0) as client:
        with pytest.raises(Unavailable):
            await client.stats()
        Files(tmp_path, authority)
        with pytest.raises(Unavailable):
            # The channel of the old certificates is replaced after its next failure.
            await client.stats()
        await client.stats()


async def test_tls_defaults_to_the_environment(start_server, files, monkeypatch):
    target = await start_server(mutual=True)
    monkeypatch.setenv("HEADRACE_TLS_CA", files.ca)
    monkeypatch.setenv("HEADRACE_TLS_CERT", files.cert)
    monkeypatch.setenv("HEADRACE_TLS_KEY", files.key)
    async with Client(target) as client:
        await client.stats()
    async with Client(target, tls=False, retries=0) as client:
        with pytest.raises(Unavailable):
            await client.stats()


async def test_tls_variable_allows_a_credential_to_another_machine(monkeypatch):
    monkeypatch.setenv("HEADRACE_TLS", "true")
    async with Client("gateway.example.com:50051", api_key="key"):
        pass
    monkeypatch.setenv("HEADRACE_TLS", "maybe")
    with pytest.raises(ValueError, match="HEADRACE_TLS is 'maybe'; use true or false"):
        Client()


async def test_incomplete_or_missing_files_are_rejected(files, tmp_path):
    with pytest.raises(ValueError, match="TLS has no key"):
        TLS(cert=files.cert)
    with pytest.raises(ValueError, match="TLS has no cert"):
        TLS(key=files.key)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Client(tls=TLS(ca=tmp_path / "nowhere"))
