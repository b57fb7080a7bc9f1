"""The right that each RPC needs. A test fails for an RPC without a row.

The table decides whether a principal may call an RPC at all. The use cases check the scope of a
principal, because it depends on the queue, type and labels of each job.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeAlias

from headrace_core.domain.access import Right


class Open(Enum):
    """RPCs without a right of their own."""

    # Anyone may call the RPC. The gateway ignores the credential, which may have expired.
    TO_ANYONE = "to anyone"
    # Every principal may call the RPC.
    TO_PRINCIPALS = "to principals"


Need: TypeAlias = Right | Open

_JOBS: Final = "/headrace.v1.JobService/"
_HANDLERS: Final = "/headrace.v1.HandlerService/"
_SUBSCRIPTIONS: Final = "/headrace.v1.SubscriptionService/"
_ACCESS: Final = "/headrace.v1.AccessService/"
_AUDIT: Final = "/headrace.v1.AuditService/"
_SESSIONS: Final = "/headrace.v1.SessionService/"
_USERS: Final = "/headrace.v1.UserService/"
_TENANTS: Final = "/headrace.v1.TenantService/"
_MONITOR: Final = "/headrace.v1.MonitorService/"

NEEDS: Final[Mapping[str, Need]] = {
    f"{_JOBS}SubmitJob": Right.JOBS_SUBMIT,
    f"{_JOBS}SubmitJobs": Right.JOBS_SUBMIT,
    f"{_JOBS}BatchSubmitJobs": Right.JOBS_SUBMIT,
    f"{_JOBS}SubmitAndWatch": Right.JOBS_SUBMIT,
    f"{_JOBS}GetJob": Right.JOBS_READ,
    f"{_JOBS}ListJobs": Right.JOBS_READ,
    f"{_JOBS}ListJobEvents": Right.JOBS_READ,
    f"{_JOBS}ListJobOutput": Right.PAYLOAD_READ,
    f"{_JOBS}ListJobLogs": Right.PAYLOAD_READ,
    f"{_JOBS}WatchJobLogs": Right.PAYLOAD_READ,
    f"{_JOBS}WatchJob": Right.JOBS_READ,
    f"{_JOBS}WatchJobs": Right.JOBS_READ,
    f"{_JOBS}GetStats": Right.JOBS_READ,
    f"{_JOBS}CancelJob": Right.JOBS_CANCEL,
    f"{_JOBS}RetryJob": Right.JOBS_RETRY,
    f"{_HANDLERS}ListHandlers": Right.JOBS_READ,
    f"{_SUBSCRIPTIONS}CreateSubscription": Right.SUBSCRIPTIONS_WRITE,
    f"{_SUBSCRIPTIONS}GetSubscription": Right.JOBS_READ,
    f"{_SUBSCRIPTIONS}ListSubscriptions": Right.JOBS_READ,
    f"{_SUBSCRIPTIONS}DeleteSubscription": Right.SUBSCRIPTIONS_WRITE,
    f"{_SUBSCRIPTIONS}WatchSubscription": Right.SUBSCRIPTIONS_WRITE,
    f"{_SUBSCRIPTIONS}AckSubscription": Right.SUBSCRIPTIONS_WRITE,
    f"{_AUDIT}ListAuditEvents": Right.AUDIT_READ,
    f"{_AUDIT}GetAuditSettings": Right.AUDIT_READ,
    f"{_AUDIT}UpdateAuditSettings": Right.ACCESS_MANAGE,
    f"{_ACCESS}WhoAmI": Open.TO_PRINCIPALS,
    f"{_ACCESS}CreateApiKey": Right.ACCESS_MANAGE,
    f"{_ACCESS}ListApiKeys": Right.ACCESS_MANAGE,
    f"{_ACCESS}RevokeApiKey": Right.ACCESS_MANAGE,
    f"{_SESSIONS}Login": Open.TO_ANYONE,
    f"{_SESSIONS}RefreshSession": Open.TO_ANYONE,
    f"{_SESSIONS}Logout": Open.TO_ANYONE,
    f"{_SESSIONS}ChangePassword": Open.TO_PRINCIPALS,
    f"{_USERS}CreateUser": Right.ACCESS_MANAGE,
    f"{_USERS}ListUsers": Right.ACCESS_MANAGE,
    f"{_USERS}UpdateUser": Right.ACCESS_MANAGE,
    f"{_USERS}DeleteUser": Right.ACCESS_MANAGE,
    # Client certificates belong to no tenant, so an admin could bind those of another tenant.
    f"{_ACCESS}CreateCertificateBinding": Right.TENANTS_MANAGE,
    f"{_ACCESS}ListCertificateBindings": Right.ACCESS_MANAGE,
    f"{_ACCESS}DeleteCertificateBinding": Right.TENANTS_MANAGE,
    f"{_TENANTS}CreateTenant": Right.TENANTS_MANAGE,
    f"{_TENANTS}GetTenant": Right.QUOTAS_MANAGE,
    f"{_TENANTS}ListTenants": Right.TENANTS_MANAGE,
    f"{_TENANTS}SuspendTenant": Right.TENANTS_MANAGE,
    f"{_TENANTS}ResumeTenant": Right.TENANTS_MANAGE,
    f"{_TENANTS}DeleteTenant": Right.TENANTS_MANAGE,
    f"{_TENANTS}SetQuotas": Right.QUOTAS_MANAGE,
    f"{_TENANTS}GetUsage": Right.QUOTAS_MANAGE,
    f"{_ACCESS}MintWatchToken": Right.TOKENS_MINT,
    f"{_MONITOR}ListWorkers": Right.JOBS_READ,
    f"{_MONITOR}ListQueues": Right.JOBS_READ,
    f"{_MONITOR}WatchOverview": Right.JOBS_READ,
    f"{_MONITOR}GetHistory": Right.JOBS_READ,
}
