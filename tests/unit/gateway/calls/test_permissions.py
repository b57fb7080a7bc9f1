"""The table of rights covers every RPC, and gives each role the RPCs that its users expect."""

from __future__ import annotations

import pytest

from headrace.v1.access_service_pb2 import WhoAmIRequest
from headrace_core.domain.access import RIGHTS, Right, Role
from headrace_gateway.calls.authorize import Authorize, Sessions
from headrace_gateway.calls.chain import ChainError
from headrace_gateway.calls.exchange import Exchange, Method
from headrace_gateway.calls.permissions import NEEDS, Open
from headrace_gateway.grpc.server import SERVICE_DESCRIPTORS

PATHS = {
    f"/{service.full_name}/{method.name}"
    for service in SERVICE_DESCRIPTORS
    for method in service.methods
}
CHANGES = {
    "Submit",
    "Batch",
    "Cancel",
    "Retry",
    "Create",
    "Delete",
    "Revoke",
    "Ack",
    "Mint",
    "Update",
    "Set",
    "Suspend",
    "Resume",
}


def test_table_has_exactly_the_rpcs_of_the_contract() -> None:
    assert set(NEEDS) == PATHS


def test_rpc_without_a_row_prevents_the_start() -> None:
    method = Method(path="/headrace.v1.JobService/Unknown", request_class=WhoAmIRequest)

    async def proceed(_: Exchange) -> None:
        raise NotImplementedError

    with pytest.raises(ChainError, match="Unknown"):
        Authorize({}, Sessions()).wrap(method, proceed)


def test_viewer_changes_nothing() -> None:
    viewer = RIGHTS[Role.VIEWER]
    allowed = {path.rpartition("/")[2] for path, need in NEEDS.items() if need in viewer}
    assert not {name for name in allowed if any(name.startswith(verb) for verb in CHANGES)}
    assert {"GetJob", "ListJobs", "WatchJob", "WatchJobs", "GetStats"} <= allowed


def test_operator_manages_jobs_but_no_access() -> None:
    operator = RIGHTS[Role.OPERATOR]
    allowed = {path.rpartition("/")[2] for path, need in NEEDS.items() if need in operator}
    assert {"SubmitJob", "BatchSubmitJobs", "CancelJob", "RetryJob"} <= allowed
    assert not allowed & {"CreateApiKey", "ListApiKeys", "RevokeApiKey"}
    assert not allowed & {"CreateUser", "ListUsers", "UpdateUser", "DeleteUser"}


def test_only_the_platform_manages_tenants() -> None:
    assert [role for role in Role if Right.TENANTS_MANAGE in RIGHTS[role]] == [Role.PLATFORM]


def test_only_reviewed_rpcs_are_open_to_anyone() -> None:
    assert {path.rpartition("/")[2] for path, need in NEEDS.items() if need is Open.TO_ANYONE} <= {
        *("Login", "RefreshSession", "Logout"),
    }
