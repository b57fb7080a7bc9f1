"""Conversion of protobuf requests."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1 import data_pb2, job_pb2
from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec as JobSpecMessage
from headrace.v1.job_pb2 import RetryPolicy
from headrace.v1.job_service_pb2 import BatchSubmitJobsRequest, SubmitJobRequest
from headrace.v1.job_service_pb2 import JobFilter as JobFilterMessage
from headrace_core.domain.errors import InvalidRequest, LimitExceeded, Violation
from headrace_core.domain.job import JobSpec
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.limits import LAST_TIME, TIME_RULE
from headrace_core.domain.query import JobFilter
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.documents import EMPTY_OBJECT, Payload
from headrace_gateway.api.job_rules import check_spec
from headrace_gateway.api.validation import Violations
from headrace_gateway.grpc.decode import (
    read_encoding,
    read_job,
    read_job_filter,
    read_jobs,
    read_view,
)


def test_unknown_enum_numbers_are_violations():
    found = Violations()
    read_encoding(99, found)
    read_view(99, found, default_full=True)
    assert [violation.field for violation in found] == ["data_encoding", "view"]


def test_unspecified_view_is_the_default():
    assert read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=True)
    assert not read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=False)
    assert read_view(job_pb2.JOB_VIEW_FULL, Violations(), default_full=False)
    assert not read_view(job_pb2.JOB_VIEW_BASIC, Violations(), default_full=True)


def test_contract_encodings_are_valid():
    found = Violations()
    for encoding in data_pb2.DataEncoding.values():
        assert read_encoding(encoding, found) == encoding
    assert not found


def test_job_filter_is_decoded():
    found = Violations()
    job_id, batch_id = uuid4(), uuid4()
    message = JobFilterMessage(
        queues=["a", "b"],
        types=["email"],
        states=[job_pb2.JOB_STATE_FAILED],
        labels={"team": "ml"},
        batch_id=str(batch_id),
        job_ids=[str(job_id)],
    )
    assert read_job_filter(message, found) == JobFilter(
        queues=frozenset(("a", "b")),
        types=frozenset(("email",)),
        states=frozenset((JobState.FAILED,)),
        labels={"team": "ml"},
        batch_id=batch_id,
        job_ids=frozenset((job_id,)),
    )
    assert read_job_filter(JobFilterMessage(), found) == JobFilter()
    assert not found


def test_job_filter_reports_all_violations():
    found = Violations()
    states = [job_pb2.JOB_STATE_FAILED, 0, 99]
    message = JobFilterMessage(states=states, batch_id="x", job_ids=[str(uuid4()), "x"])
    read_job_filter(message, found)
    assert [violation.field for violation in found] == [
        "filter.states[1]",
        "filter.states[2]",
        "filter.batch_id",
        "filter.job_ids[1]",
    ]


def decode(message: JobSpecMessage) -> tuple[JobSpec, Payload, Violations]:
    found = Violations()
    spec, payload = read_job(SubmitJobRequest(job=message), found)
    return spec, payload, found


def test_job_with_only_a_type_has_defaults():
    assert decode(JobSpecMessage(type="email")) == (JobSpec(type="email"), EMPTY_OBJECT, [])


def test_job_with_every_field_is_decoded():
    spec, payload, found = decode(
        JobSpecMessage(
            type="square_sum",
            queue="math.fast",
            payload=Data(json=b'{"data": [1, 2]}'),
            priority=-100,
            labels={"team": "ml", "a.b-c_d": ""},
            schedule_time=Timestamp(seconds=1_800_000_000, nanos=123_456_789),
            deadline=Timestamp(seconds=1_800_000_001),
            timeout=Duration(seconds=2, nanos=500_000_000),
            retry_policy=RetryPolicy(
                max_attempts=100,
                initial_backoff=Duration(),
                max_backoff=Duration(seconds=60),
                multiplier=1.0,
                jitter=0.0,
                non_retryable_error_types=["ValueError", "TIMEOUT"],
            ),
        )
    )
    assert found == []
    assert payload == b'{"data": [1, 2]}'
    assert spec == JobSpec(
        type="square_sum",
        queue="math.fast",
        priority=-100,
        labels={"team": "ml", "a.b-c_d": ""},
        schedule_time=datetime.fromtimestamp(1_800_000_000, UTC) + timedelta(microseconds=123_456),
        deadline=datetime.fromtimestamp(1_800_000_001, UTC),
        timeout=timedelta(seconds=2.5),
        retry=RetryOverrides(
            max_attempts=100,
            initial_backoff=timedelta(),
            max_backoff=timedelta(seconds=60),
            multiplier=1.0,
            jitter=0.0,
            non_retryable_error_types=("ValueError", "TIMEOUT"),
        ),
    )


def test_retry_policy_overrides_only_its_fields():
    spec, _, found = decode(JobSpecMessage(type="email", retry_policy=RetryPolicy(max_attempts=1)))
    assert found == []
    assert spec.retry == RetryOverrides(max_attempts=1)


def test_last_valid_time_stays_valid_when_rounded():
    spec, _, found = decode(
        JobSpecMessage(
            type="email", schedule_time=Timestamp(seconds=253_402_214_399, nanos=999_999_999)
        )
    )
    assert found == []
    assert spec.schedule_time == LAST_TIME


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=-(2**63)),
    ],
)
@pytest.mark.parametrize("field", ["schedule_time", "deadline"])
def test_time_beyond_the_calendar_is_a_violation(field: str, time: Timestamp):
    _, _, found = decode(JobSpecMessage(**{"type": "email", field: time}))
    assert [(violation.field, violation.description) for violation in found] == [
        (f"job.{field}", TIME_RULE)
    ]


@pytest.mark.parametrize("duration", [Duration(seconds=1, nanos=-1), Duration(seconds=2**62)])
def test_malformed_duration_is_a_violation(duration: Duration):
    retry = RetryPolicy(initial_backoff=duration, max_backoff=duration)
    _, _, found = decode(JobSpecMessage(type="email", timeout=duration, retry_policy=retry))
    assert [violation.field for violation in found] == [
        "job.timeout",
        "job.retry_policy.initial_backoff",
        "job.retry_policy.max_backoff",
    ]


@pytest.mark.parametrize(
    "data", [Data(), Data(value=struct_pb2.Value(number_value=math.nan))], ids=["none", "nan"]
)
def test_payload_without_a_document_is_a_violation(data: Data):
    _, payload, found = decode(JobSpecMessage(type="email", payload=data))
    assert payload is None
    assert [violation.field for violation in found] == ["job.payload"]


def test_request_without_a_job_is_invalid():
    with pytest.raises(InvalidRequest) as caught:
        read_job(SubmitJobRequest(), Violations())
    assert caught.value.violations == (Violation("job", "is required"),)


_INT64 = st.integers(-(2**63), 2**63 - 1)
_INT32 = st.integers(-(2**31), 2**31 - 1)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_TIME = st.builds(Timestamp, seconds=_INT64, nanos=_INT32)
_DURATION = st.builds(Duration, seconds=_INT64, nanos=_INT32)


@given(
    st.builds(
        JobSpecMessage,
        type=_TEXT,
        queue=_TEXT,
        priority=_INT32,
        labels=st.dictionaries(_TEXT, _TEXT, max_size=3),
        schedule_time=st.none() | _TIME,
        deadline=st.none() | _TIME,
        timeout=st.none() | _DURATION,
        retry_policy=st.none()
        | st.builds(
            RetryPolicy,
            max_attempts=_INT32,
            initial_backoff=_DURATION,
            max_backoff=_DURATION,
            multiplier=st.floats(),
            jitter=st.floats(),
        ),
    )
)
def test_arbitrary_job_is_valid_or_has_violations(message: JobSpecMessage):
    spec, _, found = decode(message)
    check_spec(spec, "job", found, Settings())


def test_too_many_labels_are_rejected_without_a_copy():
    spec, _, found = decode(JobSpecMessage(type="email", labels={str(n): "" for n in range(500)}))
    assert not found
    assert not isinstance(spec.labels, dict)
    with pytest.raises(LimitExceeded) as caught:
        check_spec(spec, "job", found, Settings())
    assert caught.value.actual == 500


def test_filter_with_too_many_states_is_a_violation():
    found = Violations()
    states = [job_pb2.JOB_STATE_QUEUED] * 1000 + [0] * 100_000
    read_job_filter(JobFilterMessage(states=states), found)
    assert [violation.field for violation in found] == ["filter.states[1000]"]
    found.clear()
    read_job_filter(JobFilterMessage(states=[job_pb2.JOB_STATE_QUEUED] * 1001), found)
    assert [violation.field for violation in found] == ["filter.states"]


def test_jobs_that_differ_in_payloads_share_a_spec():
    messages = [
        JobSpecMessage(type="email", labels={"team": team}, payload=Data(json=text))
        for team, text in (("a", b"1"), ("a", b"2"), ("b", b"3"))
    ]
    messages.append(JobSpecMessage(type="email", labels={"team": "a"}))
    found = Violations()
    specs, payloads = read_jobs(BatchSubmitJobsRequest(jobs=messages), found)
    assert found == []
    assert list(specs.indexes) == [0, 0, 1, 0]
    assert [spec.labels["team"] for spec in specs.distinct] == ["a", "b"]
    assert payloads == [b"1", b"2", b"3", EMPTY_OBJECT]


def test_each_job_reports_its_own_violations():
    messages = [JobSpecMessage(type="email") for _ in range(3)]
    for message in messages[1:]:
        message.timeout.nanos = 2**30
    messages[0].payload.SetInParent()
    found = Violations()
    read_jobs(BatchSubmitJobsRequest(jobs=messages), found)
    assert [violation.field for violation in found] == [
        "jobs[0].payload",
        "jobs[1].timeout",
        "jobs[2].timeout",
    ]
