"""A submit has the same violations through the use case and through gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec as JobSpecMessage
from headrace.v1.job_pb2 import RetryPolicy
from headrace.v1.job_service_pb2 import BatchSubmitJobsRequest, SubmitJobRequest
from headrace_core.domain.errors import InvalidRequest, LimitExceeded, PayloadInvalid, Violation
from headrace_core.domain.job import DEFAULT_TENANT, JobSpec
from headrace_core.domain.retry import RetryOverrides
from headrace_core.domain.submission import Repeated
from headrace_core.runtime.settings import Settings
from headrace_gateway.access.quotas import TenantQuotas
from headrace_gateway.api.documents import Document, Payload
from headrace_gateway.api.payload_schema import KnownHandler
from headrace_gateway.api.submit import Submit
from headrace_gateway.calls.authenticate import ANONYMOUS
from headrace_gateway.calls.call import Call
from headrace_gateway.calls.errors import Failures
from headrace_gateway.grpc.jobs import JobServicer

CALL = Call(correlation_id="c", principal=ANONYMOUS, tenant=DEFAULT_TENANT)
SCHEMA = '{"type": "object", "properties": {"n": {"type": "integer"}}}'


class OneHandler:
    """The registration of one handler, without PostgreSQL."""

    async def handlers(self, tenant: str) -> Mapping[str, KnownHandler]:
        assert tenant == DEFAULT_TENANT
        return {"math": KnownHandler("math", "default", SCHEMA)}


@pytest.fixture
async def submit() -> AsyncIterator[Submit]:
    """The submit use cases without a database, since invalid submits need none."""
    nothing = cast(Any, None)
    submit = Submit(
        settings=Settings(max_payload_bytes=100, max_batch_jobs=3),
        database=nothing,
        bus=nothing,
        hand_off=nothing,
        registrations=cast(Any, OneHandler()),
        quotas=TenantQuotas(),
    )
    yield submit
    await submit.close()


@pytest.fixture
def servicer(submit: Submit) -> JobServicer:
    nothing = cast(Any, None)
    return JobServicer(submit=submit, jobs=nothing, streams=nothing, failures=Failures())


class Case(NamedTuple):
    """An invalid job as domain values and as protobuf, and the fields of its violations."""

    spec: JobSpec
    payload: Payload
    message: JobSpecMessage
    fields: set[str]


CASES = [
    Case(
        spec=JobSpec(
            type="",
            queue="No",
            priority=1000,
            labels={"X": "\0"},
            timeout=timedelta(seconds=-1),
            retry=RetryOverrides(max_attempts=0, initial_backoff=timedelta(days=8)),
        ),
        payload=b"oops",
        message=JobSpecMessage(
            type="",
            queue="No",
            priority=1000,
            labels={"X": "\0"},
            timeout=Duration(seconds=-1),
            retry_policy=RetryPolicy(max_attempts=0, initial_backoff=Duration(seconds=8 * 86_400)),
            payload=Data(json=b"oops"),
        ),
        fields={
            *("type", "queue", "priority", 'labels["X"]', "timeout", "payload"),
            *("retry_policy.max_attempts", "retry_policy.initial_backoff"),
        },
    ),
    Case(
        spec=JobSpec(type="math"),
        payload=Document('{"n": "x"}', {"n": "x"}),
        message=JobSpecMessage(type="math", payload=Data(json=b'{"n": "x"}')),
        fields={"payload.n"},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=["rules", "schema"])
async def test_invalid_domain_job_has_the_grpc_violations(
    submit: Submit, servicer: JobServicer, case: Case
) -> None:
    with pytest.raises(InvalidRequest) as direct:
        await submit.submit(CALL, case.spec, case.payload, request_id="\0", use_call_deadline=True)
    request = SubmitJobRequest(job=case.message, request_id="\0", use_call_deadline=True)
    with pytest.raises(InvalidRequest) as through_grpc:
        await servicer.SubmitJob(request, CALL)
    assert direct.value.violations == through_grpc.value.violations
    assert {violation.field for violation in direct.value.violations} == {
        *("request_id", "use_call_deadline"),
        *(f"job.{field}" for field in case.fields),
    }


@pytest.mark.parametrize("case", CASES, ids=["rules", "schema"])
async def test_invalid_domain_batch_has_the_grpc_violations(
    submit: Submit, servicer: JobServicer, case: Case
) -> None:
    # The first job is valid, and the other two share a spec.
    specs = Repeated([JobSpec(type="email"), case.spec], [0, 1, 1])
    with pytest.raises(InvalidRequest) as direct:
        await submit.submit_batch(CALL, specs, [b"1", case.payload, case.payload])
    jobs = [JobSpecMessage(type="email"), case.message, case.message]
    with pytest.raises(InvalidRequest) as through_grpc:
        await servicer.BatchSubmitJobs(BatchSubmitJobsRequest(jobs=jobs), CALL)
    assert direct.value.violations == through_grpc.value.violations
    assert {violation.field for violation in direct.value.violations} == {
        f"jobs[{number}].{field}" for number in (1, 2) for field in case.fields
    }


async def test_payload_that_violates_its_schema_reports_its_type(submit: Submit) -> None:
    with pytest.raises(PayloadInvalid) as caught:
        await submit.validate(CALL, JobSpec(type="math"), b'{"n": "x"}')
    assert caught.value.job_type == "math"


async def test_transport_and_rule_violations_are_reported_together(submit: Submit) -> None:
    earlier = Violation("data_encoding", "must be known")
    with pytest.raises(InvalidRequest) as caught:
        await submit.submit(CALL, JobSpec(type=""), b"1", violations=[earlier])
    assert [violation.field for violation in caught.value.violations] == [
        "data_encoding",
        "job.type",
    ]


async def test_single_job_and_batch_have_the_same_limits(submit: Submit) -> None:
    large = b'"' + b"x" * 99 + b'"'
    with pytest.raises(LimitExceeded, match=r"^job\.payload "):
        await submit.submit(CALL, JobSpec(type="email"), large)
    specs = Repeated([JobSpec(type="email")], [0, 0])
    with pytest.raises(LimitExceeded, match=r"^jobs\[1\]\.payload "):
        await submit.submit_batch(CALL, specs, [b"1", large])
    with pytest.raises(LimitExceeded, match="HEADRACE_MAX_BATCH_JOBS"):
        await submit.submit_batch(CALL, Repeated(specs.distinct, [0] * 4), [b"1"] * 4)
