"""The client's calls of access control."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from datetime import datetime

from headrace._calls import Calls, random_key
from headrace._convert import (
    from_api_key,
    from_certificate_binding,
    from_principal,
    to_duration,
    to_role,
    to_timestamp,
)
from headrace.access import ApiKey, CertificateBinding, NewApiKey, NewWatchToken, Principal, Role
from headrace.job import Duration
from headrace.v1 import access_service_pb2


class AccessCalls:
    """The client's calls for its own principal, API keys and client certificates."""

    _calls: Calls

    async def whoami(self) -> Principal:
        """Return the principal of this client's credential."""
        request = access_service_pb2.WhoAmIRequest()
        response = await self._calls.unary(lambda gateway: gateway.access.WhoAmI, request)
        return from_principal(response.principal, acting_tenant=response.tenant)

    async def create_api_key(
        self,
        principal: str,
        *,
        role: Role | str = Role.VIEWER,
        scope: Iterable[str] = (),
        expire_time: datetime | None = None,
        request_id: str | None = None,
    ) -> NewApiKey:
        """Create an API key.

        Args:
            principal: the principal that the key identifies, 1 to 128 printable characters. To
                replace a key, create another one for the same principal.
            role: the role; the key cannot have rights that the caller lacks.
            scope: entries such as `queue:mail`, `label:user=42` or `payload:read`, at most 64.
            expire_time: the time at which the key expires. None: never.
            request_id: the idempotency key: 16 to 128 characters that are hard to guess. For 10
                minutes, a repeated call with the same key and arguments returns the same secret.
                None: a random key.

        Raises:
            ValueError: `role` is not a role, or `expire_time` has no time zone.
            AccessConflict: `request_id` was used with other arguments or more than 10 minutes ago.
            PermissionDenied: the caller may not manage keys, or the key would have more rights than
                the caller.
        """
        request = access_service_pb2.CreateApiKeyRequest(
            principal=principal,
            role=to_role(role),
            scope=scope,
            expire_time=to_timestamp(expire_time, "expire_time"),
            request_id=request_id or random_key(),
        )
        response = await self._calls.unary(lambda gateway: gateway.access.CreateApiKey, request)
        return NewApiKey(api_key=from_api_key(response.api_key), secret=response.secret)

    async def api_keys(self) -> AsyncGenerator[ApiKey, None]:
        """Yield the API keys of the tenant by id, revoked and expired ones included."""
        request = access_service_pb2.ListApiKeysRequest()
        while True:
            page = await self._calls.unary(lambda gateway: gateway.access.ListApiKeys, request)
            for key in page.api_keys:
                yield from_api_key(key)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def revoke_api_key(self, key_id: str) -> ApiKey:
        """Revoke an API key: within five seconds, all gateways reject it and end its streams.

        Args:
            key_id: the id of the key, without its secret.

        Raises:
            AccessNotFound: the tenant has no such key.
        """
        request = access_service_pb2.RevokeApiKeyRequest(id=key_id)
        response = await self._calls.unary(lambda gateway: gateway.access.RevokeApiKey, request)
        return from_api_key(response.api_key)

    async def mint_watch_token(
        self,
        *,
        job_id: str = "",
        batch_id: str = "",
        labels: Mapping[str, str] | None = None,
        include_payload: bool = False,
        lifetime: Duration | None = None,
    ) -> NewWatchToken:
        """Issue a token that can only read some jobs, for a browser or a partner.

        The jobs must match each given argument, and be within the scope of this client. The token
        is revoked when the credential of this client is revoked.

        Args:
            job_id: the job.
            batch_id: the batch.
            labels: labels that the jobs must have, such as `{"user": "42"}`.
            include_payload: whether the token can read payloads, results, output, error messages
                and stack traces. The client needs the right `payload:read`.
            lifetime: the time after which the token expires, at most one hour. None: 15 minutes.

        Raises:
            CallError: no argument selects jobs, or an argument is malformed.
            PermissionDenied: the client may not mint tokens, or may not read these jobs.
        """
        request = access_service_pb2.MintWatchTokenRequest(
            job_id=job_id,
            batch_id=batch_id,
            labels=labels,
            include_payload=include_payload,
            lifetime=None if lifetime is None else to_duration(lifetime, "lifetime"),
        )
        response = await self._calls.unary(lambda gateway: gateway.access.MintWatchToken, request)
        tenant = response.principal.tenant
        return NewWatchToken(
            principal=from_principal(response.principal, acting_tenant=tenant),
            token=response.token,
        )

    async def create_certificate_binding(
        self,
        san: str,
        principal: str,
        *,
        role: Role | str = Role.VIEWER,
        scope: Iterable[str] = (),
    ) -> CertificateBinding:
        """Bind the client certificates with a name to a principal.

        Args:
            san: the subject alternative name, `uri:URI` or `dns:HOST`, such as
                `uri:spiffe://example.com/billing`. It is unique in the installation.
            principal: the principal that the certificates identify.
            role: the role; the binding cannot grant rights that the caller lacks.
            scope: the entries of the scope; see `create_api_key`.

        Raises:
            ValueError: `role` is not a role.
            AccessConflict: the name already has a binding.
            PermissionDenied: the caller lacks the right `tenants:manage`.
        """
        request = access_service_pb2.CreateCertificateBindingRequest(
            san=san, principal=principal, role=to_role(role), scope=scope
        )
        response = await self._calls.unary(
            lambda gateway: gateway.access.CreateCertificateBinding, request
        )
        return from_certificate_binding(response.certificate_binding)

    async def certificate_bindings(self) -> AsyncGenerator[CertificateBinding, None]:
        """Yield the certificate bindings of the tenant by name."""
        request = access_service_pb2.ListCertificateBindingsRequest()
        while True:
            page = await self._calls.unary(
                lambda gateway: gateway.access.ListCertificateBindings, request
            )
            for binding in page.certificate_bindings:
                yield from_certificate_binding(binding)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_certificate_binding(self, san: str) -> CertificateBinding:
        """Delete a binding: within five seconds, all gateways reject its certificates.

        Raises:
            AccessNotFound: the tenant has no such binding.
            PermissionDenied: the caller lacks the right `tenants:manage`.
        """
        request = access_service_pb2.DeleteCertificateBindingRequest(san=san)
        response = await self._calls.unary(
            lambda gateway: gateway.access.DeleteCertificateBinding, request
        )
        return from_certificate_binding(response.certificate_binding)
