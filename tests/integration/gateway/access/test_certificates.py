"""Client certificates: bindings to principals, and their deletion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509

from headrace.v1.access_service_pb2 import (
    PRINCIPAL_KIND_API_KEY,
    PRINCIPAL_KIND_CERTIFICATE,
    ROLE_OPERATOR,
    ROLE_VIEWER,
    CreateCertificateBindingRequest,
    DeleteCertificateBindingRequest,
    ListCertificateBindingsRequest,
    WhoAmIRequest,
)
from headrace.v1.access_service_pb2_grpc import AccessServiceStub
from headrace.v1.job_service_pb2 import WatchJobsRequest
from headrace.v1.job_service_pb2_grpc import JobServiceStub
from headrace_core.domain.access import Role
from headrace_core.domain.errors import Unauthenticated
from headrace_core.domain.job import DEFAULT_TENANT
from headrace_core.runtime.settings import Settings
from headrace_core.store.sql.database import Database
from headrace_gateway.access.certificates import Certificates
from headrace_gateway.service import Gateway
from support.access import Metadata, add_api_key, bearer
from support.certificates import Authority, CertificateFile, with_tls
from support.gateway import TIMEOUT, rpc_error

SPIFFE = "spiffe://example.com/billing"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def settings(settings: Settings, authority: Authority) -> Settings:
    return with_tls(
        settings,
        authority.server(),
        access_control=True,
        tls_client_ca=str(authority.file),
        gateway_mtls_address="127.0.0.1:0",
    )


@pytest.fixture
async def channel(gateway: Gateway, authority: Authority) -> AsyncIterator[grpc.aio.Channel]:
    """A channel without a client certificate."""
    async with grpc.aio.secure_channel(
        f"localhost:{gateway.port}", authority.credentials()
    ) as channel:
        yield channel


@pytest.fixture
async def platform(database: Database) -> Metadata:
    return bearer(await add_api_key(database, Role.PLATFORM, principal="root"))


@pytest.fixture
async def admin(database: Database) -> Metadata:
    return bearer(await add_api_key(database, Role.ADMIN))


@pytest.fixture
def client_certificate(authority: Authority) -> CertificateFile:
    return authority.issue("client", "Billing.example.com", uris=[SPIFFE])


@pytest.fixture
async def mtls_channel(
    gateway: Gateway, authority: Authority, client_certificate: CertificateFile
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel with the client certificate."""
    async with grpc.aio.secure_channel(
        f"localhost:{gateway.mtls_port}", authority.credentials(client_certificate)
    ) as channel:
        yield channel


def binding(san: str, **fields: object) -> CreateCertificateBindingRequest:
    values = {"principal": "billing", "role": ROLE_OPERATOR, **fields}
    return CreateCertificateBindingRequest(san=san, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "san", [f"uri:{SPIFFE}", "dns:billing.example.com", "dns:BILLING.example.com"]
)
async def test_certificate_identifies_its_principal(
    access: AccessServiceStub, platform: Metadata, mtls_channel: grpc.aio.Channel, san: str
) -> None:
    created = await access.CreateCertificateBinding(
        binding(san, scope=["queue:mail"]), metadata=platform
    )
    me = await AccessServiceStub(mtls_channel).WhoAmI(WhoAmIRequest())
    assert (me.principal.name, me.principal.kind) == ("billing", PRINCIPAL_KIND_CERTIFICATE)
    assert (me.principal.role, me.tenant) == (ROLE_OPERATOR, DEFAULT_TENANT)
    assert list(me.principal.scope) == ["queue:mail"]
    assert me.principal.credential == created.certificate_binding.san
    assert me.principal.HasField("expire_time")


async def test_certificate_is_unauthenticated_until_it_is_bound(
    access: AccessServiceStub, platform: Metadata, mtls_channel: grpc.aio.Channel
) -> None:
    caller = AccessServiceStub(mtls_channel)
    for _ in range(2):
        error = await rpc_error(caller.WhoAmI(WhoAmIRequest()))
        assert error.code is grpc.StatusCode.UNAUTHENTICATED
    await access.CreateCertificateBinding(binding(f"uri:{SPIFFE}"), metadata=platform)
    async with asyncio.timeout(TIMEOUT):
        # A gateway caches an unknown certificate until it reads the change.
        while True:
            try:
                await caller.WhoAmI(WhoAmIRequest())
            except grpc.aio.AioRpcError as refusal:
                assert refusal.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017
            else:
                break


async def test_uri_takes_precedence_over_host_name(
    access: AccessServiceStub, platform: Metadata, mtls_channel: grpc.aio.Channel
) -> None:
    await access.CreateCertificateBinding(
        binding("dns:billing.example.com", principal="host"), metadata=platform
    )
    await access.CreateCertificateBinding(
        binding(f"uri:{SPIFFE}", principal="uri"), metadata=platform
    )
    me = await AccessServiceStub(mtls_channel).WhoAmI(WhoAmIRequest())
    assert me.principal.name == "uri"


async def test_bearer_takes_precedence_over_certificate(
    access: AccessServiceStub, platform: Metadata, admin: Metadata, mtls_channel: grpc.aio.Channel
) -> None:
    await access.CreateCertificateBinding(binding(f"uri:{SPIFFE}"), metadata=platform)
    caller = AccessServiceStub(mtls_channel)
    me = await caller.WhoAmI(WhoAmIRequest(), metadata=admin)
    assert (me.principal.name, me.principal.kind) == ("ada", PRINCIPAL_KIND_API_KEY)
    error = await rpc_error(caller.WhoAmI(WhoAmIRequest(), metadata=bearer("hr_invalid")))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_deleted_binding_ends_calls_and_streams(
    access: AccessServiceStub, platform: Metadata, mtls_channel: grpc.aio.Channel
) -> None:
    san = f"uri:{SPIFFE}"
    await access.CreateCertificateBinding(binding(san, role=ROLE_VIEWER), metadata=platform)
    first = None
    async with asyncio.timeout(TIMEOUT):
        while first is None:
            stream = JobServiceStub(mtls_channel).WatchJobs(WatchJobsRequest())
            # The creation of the binding is a change too, and may arrive after the stream began.
            with suppress(grpc.aio.AioRpcError):
                first = await stream.read()
    await access.DeleteCertificateBinding(
        DeleteCertificateBindingRequest(san=san), metadata=platform
    )

    async def read_to_end() -> None:
        while await stream.read() is not grpc.aio.EOF:
            pass

    error = await rpc_error(read_to_end())
    assert (error.reason, error.metadata) == ("CREDENTIAL_CHANGED", {"cursor": first.cursor})
    rejected = await rpc_error(AccessServiceStub(mtls_channel).WhoAmI(WhoAmIRequest()))
    assert rejected.code is grpc.StatusCode.UNAUTHENTICATED


async def test_principal_expires_with_its_certificate(
    access: AccessServiceStub,
    platform: Metadata,
    database: Database,
    authority: Authority,
    client_certificate: CertificateFile,
) -> None:
    await access.CreateCertificateBinding(binding(f"uri:{SPIFFE}"), metadata=platform)
    certificates = Certificates(database=database)

    def auth_context(file: CertificateFile) -> dict[str, tuple[bytes, ...]]:
        return {
            "x509_pem_cert": (file.cert.read_bytes(),),
            "peer_uri": (SPIFFE.encode(),),
        }

    # A stream ends when its principal expires.
    principal = await certificates.verify(auth_context(client_certificate))
    end = x509.load_pem_x509_certificate(client_certificate.cert.read_bytes()).not_valid_after_utc
    assert principal.expire_time == end.timestamp()
    # A connection can outlive its certificate.
    expired = authority.issue("expired", uris=[SPIFFE], lifetime=timedelta(seconds=-1))
    with pytest.raises(Unauthenticated, match="expired"):
        await certificates.verify(auth_context(expired))


async def test_tenant_admin_lists_but_cannot_bind(
    access: AccessServiceStub, platform: Metadata, admin: Metadata
) -> None:
    san = f"uri:{SPIFFE}"
    error = await rpc_error(access.CreateCertificateBinding(binding(san), metadata=admin))
    assert error.metadata == {"right": "tenants:manage"}
    await access.CreateCertificateBinding(binding(san), metadata=platform)
    listed = await access.ListCertificateBindings(ListCertificateBindingsRequest(), metadata=admin)
    assert [one.san for one in listed.certificate_bindings] == [san]
    error = await rpc_error(
        access.DeleteCertificateBinding(DeleteCertificateBindingRequest(san=san), metadata=admin)
    )
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_second_binding_of_a_name_is_rejected(
    access: AccessServiceStub, platform: Metadata
) -> None:
    await access.CreateCertificateBinding(binding("dns:a.example.com"), metadata=platform)
    error = await rpc_error(
        access.CreateCertificateBinding(binding("dns:A.example.com"), metadata=platform)
    )
    assert error.code is grpc.StatusCode.ALREADY_EXISTS
    unknown = DeleteCertificateBindingRequest(san="dns:b.example.com")
    error = await rpc_error(access.DeleteCertificateBinding(unknown, metadata=platform))
    assert error.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "san",
    ["", "billing", "uri:", "uri:no scheme", "dns:", "dns:a b", "dns:é.com", "uri:a:" + "x" * 2052],
)
async def test_malformed_name_is_rejected(
    access: AccessServiceStub, platform: Metadata, san: str
) -> None:
    error = await rpc_error(access.CreateCertificateBinding(binding(san), metadata=platform))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(error.violations) == {"san"}
