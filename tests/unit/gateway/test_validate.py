"""A job to submit: what is taken, and every violation at once."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf import struct_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from headrace.v1.data_pb2 import Data
from headrace.v1.job_pb2 import JobSpec as JobSpecMessage
from headrace.v1.job_pb2 import RetryPolicy
from headrace_core.domain.errors import LimitExceeded
from headrace_core.domain.job import JobSpec
from headrace_core.domain.retry import RetryOverrides
from headrace_core.runtime.settings import Settings
from headrace_gateway.api.validate import Submissions, check_batch_size, read_spec, read_specs
from headrace_gateway.api.validation import Violations

SETTINGS = Settings(max_payload_bytes=1000, max_labels=3, max_batch_jobs=10)


def read(message: JobSpecMessage, path: str = "job") -> tuple[Submissions, Violations]:
    found = Violations()
    return read_spec(message, path, found, SETTINGS), found


def violations(**fields: object) -> dict[str, str]:
    _, found = read(JobSpecMessage(**{"type": "email", **fields}))
    return {violation.field: violation.description for violation in found}


def test_a_job_with_nothing_but_a_type():
    submission, found = read(JobSpecMessage(type="email"))
    assert found == []
    assert list(submission.specs) == [JobSpec(type="email")]
    assert [payload.text for payload in submission.payloads] == ["{}"]


def test_a_job_with_everything():
    submission, found = read(
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
    assert submission.specs[0] == JobSpec(
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
    [payload] = submission.payloads
    assert payload == ('{"data": [1, 2]}', {"data": [1, 2]})


FIRST, LAST = 0, 253_402_214_399
YEAR_1, YEAR_10000 = -62_135_596_800, 253_402_300_800


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=FIRST),
        Timestamp(seconds=LAST, nanos=999_999_999),
    ],
)
def test_time_at_either_end_is_accepted_as_a_finite_one(time: Timestamp):
    submission, found = read(JobSpecMessage(type="email", schedule_time=time))
    assert found == []
    stored = submission.specs[0].schedule_time
    assert stored is not None
    assert stored.timestamp() >= 0
    assert stored + timedelta(days=1) <= datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=YEAR_10000 - 1, nanos=999_999_999),
        Timestamp(seconds=YEAR_10000 - 1, nanos=999_999_000),
        Timestamp(seconds=YEAR_10000 - 1),
        Timestamp(seconds=LAST + 1),
        Timestamp(seconds=YEAR_10000),
        Timestamp(seconds=2**63 - 1),
        Timestamp(seconds=-1, nanos=999_999_999),
        Timestamp(seconds=YEAR_1),
        Timestamp(seconds=YEAR_1, nanos=1),
        Timestamp(seconds=YEAR_1 - 1),
        Timestamp(seconds=-(2**63)),
    ],
)
@pytest.mark.parametrize("field", ["schedule_time", "deadline"])
def test_time_beyond_the_range_is_refused_by_name(field: str, time: Timestamp):
    [(path, text)] = violations(**{field: time}).items()
    assert path == f"job.{field}"
    assert "1970-01-01T00:00:00Z to 9999-12-30T23:59:59.999999999Z" in text


def test_a_retry_policy_says_only_what_was_said():
    submission, found = read(JobSpecMessage(type="email", retry_policy=RetryPolicy(max_attempts=1)))
    assert found == []
    assert submission.specs[0].retry == RetryOverrides(max_attempts=1)


@pytest.mark.parametrize("name", ["a", "7zip", "a-b_c.d", "a" * 100])
def test_names(name: str):
    assert violations(type=name, queue=name) == {}


@pytest.mark.parametrize("name", ["Email", "-a", "_a", ".a", "a b", "a\n", "a\0", "é", "a" * 101])
def test_names_that_are_none(name: str):
    assert set(violations(type=name, queue=name)) == {"job.type", "job.queue"}


def test_a_type_is_required_and_a_queue_is_not():
    assert set(violations(type="", queue="")) == {"job.type"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"priority": 101}, "job.priority"),
        ({"priority": -101}, "job.priority"),
        ({"priority": 2**31 - 1}, "job.priority"),
        ({"payload": Data()}, "job.payload"),
        ({"payload": Data(json=b"oops")}, "job.payload"),
        ({"payload": Data(value=struct_pb2.Value(number_value=math.nan))}, "job.payload"),
        ({"labels": {"Team": "x"}}, 'job.labels["Team"]'),
        ({"labels": {"": "x"}}, 'job.labels[""]'),
        ({"labels": {"a" * 64: "x"}}, f'job.labels["{"a" * 64}"]'),
        ({"labels": {"team": "x" * 256}}, 'job.labels["team"]'),
        ({"labels": {"team": "a\0b"}}, 'job.labels["team"]'),
        ({"schedule_time": Timestamp(nanos=-1)}, "job.schedule_time"),
        ({"schedule_time": Timestamp(nanos=1_000_000_000)}, "job.schedule_time"),
        ({"deadline": Timestamp(seconds=2**62)}, "job.deadline"),
        (
            {"schedule_time": Timestamp(seconds=100), "deadline": Timestamp(seconds=100)},
            "job.deadline",
        ),
        ({"timeout": Duration()}, "job.timeout"),
        ({"timeout": Duration(nanos=1)}, "job.timeout"),
        ({"timeout": Duration(seconds=-1)}, "job.timeout"),
        ({"timeout": Duration(seconds=7 * 86_400, nanos=1000)}, "job.timeout"),
        ({"timeout": Duration(seconds=1, nanos=-1)}, "job.timeout"),
        ({"timeout": Duration(seconds=2**62)}, "job.timeout"),
        ({"retry_policy": RetryPolicy(max_attempts=0)}, "job.retry_policy.max_attempts"),
        ({"retry_policy": RetryPolicy(max_attempts=101)}, "job.retry_policy.max_attempts"),
        ({"retry_policy": RetryPolicy(multiplier=0.9)}, "job.retry_policy.multiplier"),
        *(
            (
                {"retry_policy": RetryPolicy(non_retryable_error_types=types)},
                "job.retry_policy.non_retryable_error_types",
            )
            for types in ([""], ["a\0"], ["a" * 201], ["a"] * 33)
        ),
        ({"retry_policy": RetryPolicy(multiplier=math.nan)}, "job.retry_policy.multiplier"),
        ({"retry_policy": RetryPolicy(multiplier=math.inf)}, "job.retry_policy.multiplier"),
        ({"retry_policy": RetryPolicy(jitter=1.1)}, "job.retry_policy.jitter"),
        ({"retry_policy": RetryPolicy(jitter=math.nan)}, "job.retry_policy.jitter"),
        (
            {"retry_policy": RetryPolicy(initial_backoff=Duration(seconds=-1))},
            "job.retry_policy.initial_backoff",
        ),
        (
            {"retry_policy": RetryPolicy(max_backoff=Duration(seconds=8 * 86_400))},
            "job.retry_policy.max_backoff",
        ),
        (
            {
                "retry_policy": RetryPolicy(
                    initial_backoff=Duration(seconds=2), max_backoff=Duration(seconds=1)
                )
            },
            "job.retry_policy.max_backoff",
        ),
    ],
)
def test_what_is_out_of_its_range_is_named(fields: dict[str, object], path: str):
    assert list(violations(**fields)) == [path]


def test_all_violations_come_at_once_with_their_paths():
    _, found = read(
        JobSpecMessage(
            type="",
            queue="No",
            payload=Data(json=b"{"),
            priority=1000,
            labels={"X": "\0"},
            timeout=Duration(seconds=-1),
            deadline=Timestamp(nanos=-1),
            retry_policy=RetryPolicy(max_attempts=0, jitter=2.0),
        ),
        "jobs[3]",
    )
    assert [violation.field for violation in found] == [
        "jobs[3].payload",
        "jobs[3].type",
        "jobs[3].queue",
        "jobs[3].priority",
        "jobs[3].deadline",
        "jobs[3].timeout",
        'jobs[3].labels["X"]',
        'jobs[3].labels["X"]',
        "jobs[3].retry_policy.max_attempts",
        "jobs[3].retry_policy.jitter",
    ]


def limit_of(message: JobSpecMessage) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        read(message)
    return caught.value


@pytest.mark.parametrize(
    "payload",
    [
        Data(json=b'"' + b"x" * 999 + b'"'),
        Data(json=b"[" * 1001),
        Data(value=struct_pb2.Value(string_value="x" * 999)),
        # 500 characters, 1000 bytes and the quotes.
        Data(value=struct_pb2.Value(string_value="é" * 500)),
    ],
)
def test_a_payload_that_is_too_large_names_its_limit(payload: Data):
    error = limit_of(JobSpecMessage(type="email", payload=payload))
    assert (error.field, error.limit, error.maximum) == (
        "job.payload",
        "HEADRACE_MAX_PAYLOAD_BYTES",
        1000,
    )
    assert error.actual > 1000


def test_a_payload_of_just_the_limit_is_taken():
    assert violations(payload=Data(json=b'"' + b"x" * 998 + b'"')) == {}


def test_too_many_labels_name_their_limit():
    error = limit_of(JobSpecMessage(type="email", labels={f"k{n}": "" for n in range(4)}))
    assert (error.limit, error.maximum, error.actual) == ("HEADRACE_MAX_LABELS", 3, 4)


def test_a_batch_is_neither_empty_nor_too_long():
    found = Violations()
    check_batch_size([], found, SETTINGS)
    assert [violation.field for violation in found] == ["jobs"]
    with pytest.raises(LimitExceeded, match="HEADRACE_MAX_BATCH_JOBS"):
        check_batch_size([None] * 11, found, SETTINGS)


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
def test_whatever_is_sent_is_a_job_or_violations(message: JobSpecMessage):
    read(message)


def test_jobs_that_differ_in_their_payloads_alone_share_a_spec():
    messages = [
        JobSpecMessage(type="email", labels={"team": team}, payload=Data(json=text))
        for team, text in (("a", b"1"), ("a", b"2"), ("b", b"3"))
    ]
    messages.append(JobSpecMessage(type="email", labels={"team": "a"}))
    found = Violations()
    submissions = read_specs(messages, "jobs", found, SETTINGS)
    assert found == []
    assert submissions.specs.distinct == [
        JobSpec(type="email", labels={"team": team}) for team in ("a", "b")
    ]
    assert submissions.specs.places == [0, 0, 1, 0]
    assert [payload.text for payload in submissions.payloads if payload] == ["1", "2", "3", "{}"]
    assert submissions.paths == ["jobs[0]", "jobs[1]", "jobs[2]", "jobs[3]"]


def test_each_of_many_jobs_is_told_of_its_violations():
    messages = [JobSpecMessage(type="email", priority=priority) for priority in (0, 101, 101)]
    messages[0].payload.json = b"oops"
    found = Violations()
    read_specs(messages, "jobs", found, SETTINGS)
    assert [violation.field for violation in found] == [
        "jobs[0].payload",
        "jobs[1].priority",
        "jobs[2].priority",
    ]
