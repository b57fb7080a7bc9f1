"""Requests, decoded from protobuf."""

from __future__ import annotations

from uuid import uuid4

from headrace.v1 import data_pb2, job_pb2
from headrace.v1.job_service_pb2 import JobFilter as JobFilterMessage
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import JobFilter
from headrace_gateway.api.validation import Violations
from headrace_gateway.grpc.decode import read_encoding, read_job_filter, read_view


def test_unknown_enum_numbers_are_violations():
    found = Violations()
    read_encoding(99, found)
    read_view(99, found, default_full=True)
    assert [violation.field for violation in found] == ["data_encoding", "view"]


def test_view_unspecified_is_the_default():
    assert read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=True)
    assert not read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=False)
    assert read_view(job_pb2.JOB_VIEW_FULL, Violations(), default_full=False)
    assert not read_view(job_pb2.JOB_VIEW_BASIC, Violations(), default_full=True)


def test_encodings_of_the_contract_are_valid():
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


def test_job_filter_violations_come_at_once():
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
