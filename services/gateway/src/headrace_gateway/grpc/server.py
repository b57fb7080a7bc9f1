"""The gRPC server: its options and its services."""

from __future__ import annotations

from typing import Any, Final

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from headrace.v1 import (
    access_service_pb2,
    audit_service_pb2,
    handler_service_pb2,
    job_service_pb2,
    monitor_service_pb2,
    session_service_pb2,
    subscription_service_pb2,
    tenant_service_pb2,
    user_service_pb2,
)
from headrace_core.runtime.settings import Settings
from headrace_gateway.calls.chain import Chain
from headrace_gateway.calls.order import FOREIGN_LINKS
from headrace_gateway.calls.services import Service, add_services
from headrace_gateway.grpc.access import AccessServicer
from headrace_gateway.grpc.audit import AuditServicer
from headrace_gateway.grpc.handlers import HandlerServicer
from headrace_gateway.grpc.jobs import JobServicer
from headrace_gateway.grpc.monitor import MonitorServicer
from headrace_gateway.grpc.sessions import SessionServicer
from headrace_gateway.grpc.subscriptions import SubscriptionServicer
from headrace_gateway.grpc.tenants import TenantServicer
from headrace_gateway.grpc.users import UserServicer
from headrace_health import HealthServicer, keep_completion_queue, reflections

JOBS: Final = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]
HANDLERS: Final = handler_service_pb2.DESCRIPTOR.services_by_name["HandlerService"]
SUBSCRIPTIONS: Final = subscription_service_pb2.DESCRIPTOR.services_by_name["SubscriptionService"]
ACCESS: Final = access_service_pb2.DESCRIPTOR.services_by_name["AccessService"]
AUDIT: Final = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]
SESSIONS: Final = session_service_pb2.DESCRIPTOR.services_by_name["SessionService"]
USERS: Final = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
TENANTS: Final = tenant_service_pb2.DESCRIPTOR.services_by_name["TenantService"]
MONITOR: Final = monitor_service_pb2.DESCRIPTOR.services_by_name["MonitorService"]
_HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"]

SERVICE_DESCRIPTORS: Final = (
    *(JOBS, HANDLERS, SUBSCRIPTIONS, ACCESS, AUDIT, SESSIONS, USERS, TENANTS, MONITOR),
)
# The full names of Headrace's services.
SERVICES: Final = tuple(str(service.full_name) for service in SERVICE_DESCRIPTORS)

# gRPC clients reject larger messages by default. Every response is smaller, whatever it contains.
MAX_RESPONSE_BYTES: Final = 4 * 1024 * 1024
# gRPC itself rejects requests above this multiple of the limit, and calls with more metadata than
# this, with RESOURCE_EXHAUSTED. Calls that exceed a limit by less reach the link `sizes`, whose
# error names the limit.
_RECEIVE_LIMIT_FACTOR: Final = 4
_MAX_RECEIVED_METADATA_BYTES: Final = 64 * 1024

# The maximum number of calls of all connections that have arrived but not started.
_MAX_PENDING_CALLS: Final = 20_000

_SECOND_MS: Final = 1000
_KEEPALIVE: Final = (
    # The server pings quiet connections to detect dead peers.
    ("grpc.keepalive_time_ms", 30 * _SECOND_MS),
    ("grpc.keepalive_timeout_ms", 10 * _SECOND_MS),
    # The effective limit for a ping response: a minute by default, despite the option above.
    ("grpc.http2.ping_timeout_ms", 10 * _SECOND_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # By default, gRPC closes a connection with frequent pings. But it copies an error for each ping
    # before the close, so a few kilobytes of pings would occupy a thread for a second.
    ("grpc.http2.max_ping_strikes", 0),
)


def build_server(
    settings: Settings,
    *,
    chain: Chain,
    jobs: JobServicer,
    handlers: HandlerServicer,
    subscriptions: SubscriptionServicer,
    access: AccessServicer,
    audit: AuditServicer,
    sessions: SessionServicer,
    users: UserServicer,
    tenants: TenantServicer,
    monitor: MonitorServicer,
    health: HealthServicer,
) -> grpc.aio.Server:
    """Return a server that passes each call through the chain.

    Args:
        settings: the limits, and whether to serve health and reflection.
        chain: the links; calls to health and reflection pass only through FOREIGN_LINKS.
        jobs: serves JobService.
        handlers: serves HandlerService.
        subscriptions: serves SubscriptionService.
        access: serves AccessService.
        audit: serves AuditService.
        sessions: serves SessionService.
        users: serves UserService.
        tenants: serves TenantService.
        monitor: serves MonitorService.
        health: serves grpc.health.v1.

    Raises:
        ChainError: a link or a servicer method is missing.
    """
    keep_completion_queue()
    server = grpc.aio.server(options=server_options(settings))
    servicers: dict[ServiceDescriptor, object] = {
        JOBS: jobs,
        HANDLERS: handlers,
        SUBSCRIPTIONS: subscriptions,
        ACCESS: access,
        AUDIT: audit,
        SESSIONS: sessions,
        USERS: users,
        TENANTS: tenants,
        MONITOR: monitor,
    }
    services = [
        Service(descriptor=descriptor, servicer=servicer, chain=chain)
        for descriptor, servicer in servicers.items()
    ]
    foreign = chain.only(*FOREIGN_LINKS)
    if settings.health_names != "off":
        services.append(Service(descriptor=_HEALTH, servicer=health, chain=foreign, foreign=True))
    if settings.reflection:
        names = [service.full_name for service in services]
        services += [
            Service(
                descriptor=reflection.descriptor,
                servicer=reflection.servicer,
                chain=foreign,
                foreign=True,
                name=reflection.name,
            )
            for reflection in reflections(names)
        ]
    add_services(server, services)
    return server


def server_options(settings: Settings) -> list[tuple[str, Any]]:
    """Return the gRPC core options."""
    return [
        # By default, two processes can share a port. Two gateways on one port are a mistake.
        ("grpc.so_reuseport", 0),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", round(settings.connection_idle * _SECOND_MS)),
        ("grpc.server_handshake_timeout_ms", round(settings.handshake_timeout * _SECOND_MS)),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # When clients reconnect at the same time, their calls wait in a queue. Beyond these limits
        # (a thousand by default), gRPC ends calls with CANCELLED, which clients do not retry.
        ("grpc.server.max_pending_requests", _MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING_CALLS),
        # The link `sizes` decompresses requests, with a limit.
        ("grpc.per_message_decompression", 0),
        ("grpc.max_receive_message_length", settings.max_request_bytes * _RECEIVE_LIMIT_FACTOR),
        # The soft and hard limits are equal: between them gRPC would reject calls at random.
        ("grpc.max_metadata_size", _MAX_RECEIVED_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _MAX_RECEIVED_METADATA_BYTES),
        # By default, gRPC keeps a call with too much metadata, and its buffers, for up to a second
        # before it rejects the call.
        ("grpc.http.tarpit", 0),
        # Responses are smaller. A larger one is a bug, and clients could not read it.
        ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
        *_KEEPALIVE,
    ]
