"""The client's calls of access control."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from datetime import datetime

from headrace._calls import Calls
from headrace._convert import from_api_key, from_principal, to_role, to_timestamp
from headrace.access import ApiKey, NewApiKey, Principal, Role
from headrace.v1 import access_service_pb2


class AccessCalls:
    """The client's calls for its own principal and for the API keys of its tenant."""

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
    ) -> NewApiKey:
        """Create an API key.

        The call is not idempotent. If it fails without a response, list the keys and revoke one
        that has not been used.

        Args:
            principal: the principal that the key identifies, 1 to 128 printable characters. To
                replace a key, create another one for the same principal.
            role: the role; the key cannot have rights that the caller lacks.
            scope: entries such as `queue:mail`, `label:user=42` or `payload:read`, at most 64.
            expire_time: the time at which the key expires. None: never.

        Raises:
            ValueError: `role` is not a role, or `expire_time` has no time zone.
            PermissionDenied: the caller may not manage keys, or the key would have more rights than
                the caller.
        """
        request = access_service_pb2.CreateApiKeyRequest(
            principal=principal,
            role=to_role(role),
            scope=scope,
            expire_time=to_timestamp(expire_time, "expire_time"),
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
