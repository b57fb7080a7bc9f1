"""The fields that requests have in common."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from headrace.v1 import data_pb2, job_pb2
from headrace.v1.job_service_pb2 import JobFilter as JobFilterMessage
from headrace_core.domain.errors import InvalidRequest
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.query import JobFilter
from headrace_gateway.grpc.fields import (
    Violations,
    read_after_seq,
    read_call_deadline,
    read_encoding,
    read_job_filter,
    read_job_id,
    read_page_size,
    read_request_id,
    read_view,
)


@pytest.mark.parametrize("request_id", ["a", "order 17/é", "x" * 128])
def test_request_ids(request_id: str):
    found = Violations()
    assert read_request_id(request_id, found) == request_id
    assert not found


def test_an_empty_request_id_is_none():
    assert read_request_id("", Violations()) is None


@pytest.mark.parametrize("request_id", ["x" * 129, "a\0", "a\nb", "\x7f"])
def test_request_ids_that_are_refused(request_id: str):
    found = Violations()
    read_request_id(request_id, found)
    assert [violation.field for violation in found] == ["request_id"]


@pytest.mark.parametrize("left", [0.0, 1e9, 1e30, float("inf")])
def test_call_deadline_stays_within_the_calendar(left: float):
    found = Violations()
    read = read_call_deadline(True, left, found)
    assert not found
    assert read is not None
    assert timedelta() <= read <= timedelta(days=3650)


def test_a_job_id_is_a_uuid():
    job_id = uuid4()
    assert read_job_id(str(job_id), Violations()) == job_id


CANONICAL = "0199c2a0-5b1e-7c3d-9a41-2f6b8e0d7c15"


@pytest.mark.parametrize(
    "job_id",
    [
        *("", "17", UUID(int=17).hex, f"{{{UUID(int=17)}}}", "z" * 36, "é" * 36),
        *(CANONICAL.upper(), CANONICAL + "\n", " " + CANONICAL, f"urn:uuid:{CANONICAL}"),
        *(CANONICAL.replace("-", "") + "----", CANONICAL.replace("-7c3d", "7c3d-")),
        CANONICAL.replace("0199", "٠199"),
    ],
)
def test_job_ids_that_are_refused(job_id: str):
    found = Violations()
    read_job_id(job_id, found)
    assert [violation.field for violation in found] == ["job_id"]


@pytest.mark.parametrize(("asked", "got"), [(0, 100), (1, 1), (1000, 1000), (2**31 - 1, 1000)])
def test_page_sizes(asked: int, got: int):
    found = Violations()
    assert read_page_size(asked, found) == got
    assert not found


def test_negative_numbers_are_refused():
    found = Violations()
    read_page_size(-1, found)
    read_after_seq(-1, found)
    assert [violation.field for violation in found] == ["page_size", "after_seq"]


def test_an_event_number_beyond_all_events_is_taken():
    assert read_after_seq(2**63 - 1, Violations()) == 2**31 - 1


def test_enum_values_that_there_are_not_are_refused():
    found = Violations()
    read_encoding(99, found)
    read_view(99, found, default_full=True)
    assert [violation.field for violation in found] == ["data_encoding", "view"]


def test_views():
    assert read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=True)
    assert not read_view(job_pb2.JOB_VIEW_UNSPECIFIED, Violations(), default_full=False)
    assert read_view(job_pb2.JOB_VIEW_FULL, Violations(), default_full=False)
    assert not read_view(job_pb2.JOB_VIEW_BASIC, Violations(), default_full=True)


def test_encodings():
    for encoding in data_pb2.DataEncoding.values():
        assert read_encoding(encoding, Violations()) == encoding


def test_violations_are_raised_together():
    found = Violations()
    found.check()
    found.note("a", "must be b")
    found.note("c", "must be d")
    with pytest.raises(InvalidRequest, match="a: must be b; c: must be d"):
        found.check()


def test_a_job_filter():
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
    assert not found
    assert read_job_filter(JobFilterMessage(), found) == JobFilter()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"queues": ["ok", "UP PER"]}, "filter.queues[1]"),
        ({"queues": ["a\n"]}, "filter.queues[0]"),
        ({"queues": [""]}, "filter.queues[0]"),
        ({"types": ["Email"]}, "filter.types[0]"),
        ({"types": ["a\0"]}, "filter.types[0]"),
        ({"labels": {"K\n": "x"}}, 'filter.labels["K\\n"]'),
        ({"labels": {"team\n": "x"}}, 'filter.labels["team\\n"]'),
        ({"labels": {"team": "x" * 256}}, 'filter.labels["team"]'),
        ({"labels": {"team": "a\0"}}, 'filter.labels["team"]'),
        ({"batch_id": CANONICAL.upper()}, "filter.batch_id"),
        ({"job_ids": [CANONICAL.upper()]}, "filter.job_ids[0]"),
    ],
)
def test_job_filter_with_what_no_job_has_is_refused(fields: dict[str, object], path: str):
    found = Violations()
    read_job_filter(JobFilterMessage(**fields), found)
    assert [violation.field for violation in found] == [path]


def test_what_is_wrong_with_a_job_filter():
    found = Violations()
    read_job_filter(
        JobFilterMessage(
            states=[job_pb2.JOB_STATE_FAILED, 0, 99], batch_id="x", job_ids=[str(UUID(int=1)), "x"]
        ),
        found,
    )
    assert [violation.field for violation in found] == [
        "filter.states[1]",
        "filter.states[2]",
        "filter.batch_id",
        "filter.job_ids[1]",
    ]
    found.clear()
    read_job_filter(JobFilterMessage(job_ids=["x"] * 10_001), found)
    assert [violation.field for violation in found] == ["filter.job_ids"]


@pytest.mark.parametrize(
    "message",
    [
        JobFilterMessage(queues=["q"] * 1001),
        JobFilterMessage(types=["t"] * 1001),
        JobFilterMessage(states=[job_pb2.JOB_STATE_QUEUED] * 1001),
        JobFilterMessage(labels={str(number): "" for number in range(1001)}),
    ],
    ids=["queues", "types", "states", "labels"],
)
def test_a_job_filter_is_bounded(message: JobFilterMessage):
    found = Violations()
    assert read_job_filter(message, found) == JobFilter()
    assert [violation.field.partition(".")[0] for violation in found] == ["filter"]
    assert "at most 1000" in found[0].description
