"""AccessService: each method converts its request and the result of its use case."""

# ruff: noqa: N802 - the methods have the names of the contract

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from headrace.v1 import access_service_pb2 as messages
from headrace_core.domain.access import ApiKey, Principal, PrincipalKind, Role
from headrace_core.domain.certificate import CertificateBinding
from headrace_gateway.api.access import Access
from headrace_gateway.api.certificates import CertificateBindings
from headrace_gateway.api.validation import Violations
from headrace_gateway.calls.call import Call
from headrace_gateway.grpc.decode import read_duration, read_time
from headrace_gateway.grpc.encode import timestamp
from headrace_gateway.grpc.pages import MessagePage

_ROLES: Final[Mapping[int, Role]] = {
    messages.ROLE_UNSPECIFIED: Role.VIEWER,
    messages.ROLE_VIEWER: Role.VIEWER,
    messages.ROLE_OPERATOR: Role.OPERATOR,
    messages.ROLE_ADMIN: Role.ADMIN,
    messages.ROLE_PLATFORM: Role.PLATFORM,
}
_ROLE_VALUES: Final = {role: messages.Role.Value(f"ROLE_{role.name}") for role in Role}
KINDS: Final = {
    kind: messages.PrincipalKind.Value(f"PRINCIPAL_KIND_{kind.name}") for kind in PrincipalKind
}


class AccessServicer:
    """Returns the principals of callers, and manages API keys and certificate bindings.

    Args:
        access: the use cases of API keys.
        certificates: the use cases of certificate bindings.
    """

    def __init__(self, access: Access, certificates: CertificateBindings) -> None:
        self._access = access
        self._certificates = certificates

    async def WhoAmI(self, _request: messages.WhoAmIRequest, call: Call) -> messages.WhoAmIResponse:
        """Return the principal of the call."""
        return messages.WhoAmIResponse(
            principal=principal_message(call.principal), tenant=call.tenant
        )

    async def CreateApiKey(
        self, request: messages.CreateApiKeyRequest, call: Call
    ) -> messages.CreateApiKeyResponse:
        """Create an API key."""
        found = Violations()
        expire_time = None
        if request.HasField("expire_time"):
            expire_time = read_time(request.expire_time, "expire_time", found)
        issued = await self._access.create_key(
            call,
            principal=request.principal,
            role=read_role(request.role, found),
            scope=request.scope,
            expire_time=expire_time,
            request_id=request.request_id,
            violations=found,
        )
        return messages.CreateApiKeyResponse(api_key=_key_message(issued.key), secret=issued.secret)

    async def ListApiKeys(
        self, request: messages.ListApiKeysRequest, call: Call
    ) -> messages.ListApiKeysResponse:
        """List API keys by id."""
        page = MessagePage(_key_message)
        token = await self._access.list_keys(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListApiKeysResponse(api_keys=page.messages, next_page_token=token)

    async def RevokeApiKey(
        self, request: messages.RevokeApiKeyRequest, call: Call
    ) -> messages.RevokeApiKeyResponse:
        """Revoke an API key."""
        key = await self._access.revoke_key(call, request.id)
        return messages.RevokeApiKeyResponse(api_key=_key_message(key))

    async def CreateCertificateBinding(
        self, request: messages.CreateCertificateBindingRequest, call: Call
    ) -> messages.CreateCertificateBindingResponse:
        """Bind the client certificates with a name to a principal."""
        found = Violations()
        binding = await self._certificates.bind(
            call,
            san=request.san,
            principal=request.principal,
            role=read_role(request.role, found),
            scope=request.scope,
            violations=found,
        )
        return messages.CreateCertificateBindingResponse(
            certificate_binding=_binding_message(binding)
        )

    async def ListCertificateBindings(
        self, request: messages.ListCertificateBindingsRequest, call: Call
    ) -> messages.ListCertificateBindingsResponse:
        """List certificate bindings by name."""
        page = MessagePage(_binding_message)
        token = await self._certificates.list_bound(
            call, page, size=request.page_size, token=request.page_token
        )
        return messages.ListCertificateBindingsResponse(
            certificate_bindings=page.messages, next_page_token=token
        )

    async def DeleteCertificateBinding(
        self, request: messages.DeleteCertificateBindingRequest, call: Call
    ) -> messages.DeleteCertificateBindingResponse:
        """Delete a certificate binding."""
        binding = await self._certificates.unbind(call, request.san)
        return messages.DeleteCertificateBindingResponse(
            certificate_binding=_binding_message(binding)
        )

    async def MintWatchToken(
        self, request: messages.MintWatchTokenRequest, call: Call
    ) -> messages.MintWatchTokenResponse:
        """Issue a watch token."""
        found = Violations()
        lifetime = None
        if request.HasField("lifetime"):
            lifetime = read_duration(request.lifetime, "lifetime", found)
        minted = await self._access.mint_watch_token(
            call,
            job_id=request.job_id,
            batch_id=request.batch_id,
            labels=dict(request.labels),
            include_payload=request.include_payload,
            lifetime=lifetime,
            violations=found,
        )
        return messages.MintWatchTokenResponse(
            token=minted.text, principal=principal_message(minted.principal)
        )


def read_role(value: int, found: Violations, field: str = "role") -> Role:
    """Return a role; after a violation, return the role with the fewest rights."""
    role = _ROLES.get(value)
    if role is None:
        found.note(field, f"{value} is not a role")
        return Role.VIEWER
    return role


def role_value(role: Role) -> messages.Role.ValueType:
    """Return the protobuf enum value of a role."""
    return _ROLE_VALUES[role]


def principal_message(principal: Principal) -> messages.Principal:
    """Return the message of a principal."""
    expire_time = None
    if principal.expire_time is not None:
        expire_time = datetime.fromtimestamp(principal.expire_time, UTC)
    return messages.Principal(
        name=principal.name,
        tenant=principal.tenant,
        kind=KINDS[principal.kind],
        role=role_value(principal.role),
        scope=principal.scope.entries(),
        rights=sorted(principal.rights),
        credential=principal.credential,
        expire_time=timestamp(expire_time),
    )


def _binding_message(binding: CertificateBinding) -> messages.CertificateBinding:
    return messages.CertificateBinding(
        san=binding.san,
        principal=binding.principal,
        role=_ROLE_VALUES[binding.role],
        scope=binding.scope.entries(),
        created_by=binding.created_by,
        create_time=timestamp(binding.create_time),
    )


def _key_message(key: ApiKey) -> messages.ApiKey:
    return messages.ApiKey(
        id=key.id,
        principal=key.principal,
        role=role_value(key.role),
        scope=key.scope.entries(),
        created_by=key.created_by,
        create_time=timestamp(key.create_time),
        expire_time=timestamp(key.expire_time),
        last_use_time=timestamp(key.last_use_time),
        revoke_time=timestamp(key.revoke_time),
    )
