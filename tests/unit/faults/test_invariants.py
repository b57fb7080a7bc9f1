"""Tests of the checker: each invariant must fail on a falsified history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from faults.evidence import (
    EventRow,
    Evidence,
    JobRow,
    LedgerEntry,
    Outcome,
    ReceivedEvent,
    Recovery,
    StreamFilter,
    StreamLog,
    Submission,
    Usage,
)
from faults.invariants import (
    INVARIANTS,
    count_later_attempts,
    count_repeated_starts,
    judge,
    repeated_ends,
)
from headrace_core.domain.lifecycle import EventType, JobState
from headrace_core.domain.retry import RetryPolicy

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts=2, max_backoff=timedelta(seconds=10))
_E, _S = EventType, JobState


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def row(
    seq: int,
    kind: EventType,
    state: JobState,
    attempt: int,
    due: float | None = None,
    *,
    job_id: str = "a",
) -> EventRow:
    return EventRow(
        job_id=job_id,
        seq=seq,
        type=kind,
        state=state,
        attempt=attempt,
        time=at(seq),
        due_time=None if due is None else at(due),
    )


# One job is scheduled, fails once and then succeeds. The other fails and is requeued.
RETRIED_EVENTS = [
    row(1, _E.SUBMITTED, _S.SCHEDULED, 0, due=1.5),
    row(2, _E.DUE, _S.QUEUED, 0),
    row(3, _E.STARTED, _S.RUNNING, 1),
    row(4, _E.RETRY_SCHEDULED, _S.RETRYING, 1, due=5),
    row(5, _E.DUE, _S.QUEUED, 1),
    row(6, _E.STARTED, _S.RUNNING, 2),
    row(7, _E.SUCCEEDED, _S.SUCCEEDED, 2),
]
REQUEUED_EVENTS = [
    row(1, _E.SUBMITTED, _S.QUEUED, 0, job_id="b"),
    row(2, _E.STARTED, _S.RUNNING, 1, job_id="b"),
    row(3, _E.FAILED, _S.FAILED, 1, job_id="b"),
    row(4, _E.REQUEUED, _S.QUEUED, 1, job_id="b"),
    row(5, _E.STARTED, _S.RUNNING, 2, job_id="b"),
    row(6, _E.SUCCEEDED, _S.SUCCEEDED, 2, job_id="b"),
]


def job(job_id: str, seq: int, **changes: object) -> JobRow:
    base = JobRow(
        id=job_id,
        tenant="default",
        type="work",
        queue="default",
        labels={"of": job_id},
        request_id=f"key-{job_id}",
        state=_S.SUCCEEDED,
        seq=seq,
        policy=POLICY,
    )
    return replace(base, **changes)


# A job of another tenant, and its events.
OTHER_TENANT_JOB = job("n", 2, tenant="other-tenant", request_id=None, state=_S.CANCELLED)
OTHER_TENANT_EVENTS = [
    row(1, _E.SUBMITTED, _S.QUEUED, 0, job_id="n"),
    row(2, _E.CANCELLED, _S.CANCELLED, 0, job_id="n"),
]


def submission(job_id: str) -> Submission:
    return Submission(request_id=f"key-{job_id}", invoked=0.0, outcome=Outcome.OK, job_id=job_id)


def received_event(event: EventRow, connection: int = 1) -> ReceivedEvent:
    return ReceivedEvent(connection, event.job_id, event.seq, 0.0, 0.0)


def stream(*events: EventRow, wanted: StreamFilter | None = None) -> StreamLog:
    return StreamLog(
        name="s", wanted=wanted or StreamFilter(), shown=[received_event(event) for event in events]
    )


def valid_history() -> Evidence:
    """Return a history that breaks no invariant."""
    return Evidence(
        submissions=[submission("a"), submission("b")],
        jobs={"a": job("a", 7), "b": job("b", 6), "n": OTHER_TENANT_JOB},
        events=[*RETRIED_EVENTS, *REQUEUED_EVENTS, *OTHER_TENANT_EVENTS],
        ledger=[LedgerEntry("a", 1), LedgerEntry("a", 2), LedgerEntry("b", 1), LedgerEntry("b", 2)],
        streams=[
            stream(*RETRIED_EVENTS, *REQUEUED_EVENTS),
            stream(*RETRIED_EVENTS, wanted=StreamFilter(labels={"of": "a"})),
            stream(
                RETRIED_EVENTS[6], REQUEUED_EVENTS[5], wanted=StreamFilter(states=(_S.SUCCEEDED,))
            ),
            stream(*REQUEUED_EVENTS, wanted=StreamFilter(job_ids=("b",))),
        ],
        usages=[Usage(what="memory", before=100, after=109)],
        recoveries=[Recovery(what="crash", before=50, seconds=2.0)],
    )


def broken_invariants(evidence: Evidence) -> set[str]:
    """Return the invariants that a history breaks."""
    verdicts = judge(evidence, ())
    return {name for name, verdict in verdicts.items() if verdict.broken}


def test_valid_history_breaks_no_invariant_and_checks_all():
    verdicts = judge(valid_history(), tuple(INVARIANTS))
    assert {name: verdict.broken for name, verdict in verdicts.items() if verdict.broken} == {}
    assert set(verdicts) == set(INVARIANTS)
    assert all(verdict.checked for verdict in verdicts.values())


def test_check_without_evidence_checks_nothing():
    assert judge(Evidence(), ()) == {}
    verdicts = judge(Evidence(), tuple(INVARIANTS))
    assert all(verdict.broken for verdict in verdicts.values())
    assert set(verdicts) == set(INVARIANTS)


Falsify = Callable[[Evidence], Evidence]


def without_job(evidence: Evidence) -> Evidence:
    """Remove an acknowledged job with all its events."""
    return replace(
        evidence,
        jobs={"b": evidence.jobs["b"]},
        events=REQUEUED_EVENTS,
        streams=[stream(*REQUEUED_EVENTS)],
    )


def with_jobs(**jobs: JobRow) -> Falsify:
    return lambda evidence: replace(evidence, jobs={**evidence.jobs, **jobs})


def with_events(*events: EventRow) -> Falsify:
    """Replace the events of the first job, in the database and in the stream."""

    def falsify(evidence: Evidence) -> Evidence:
        return replace(
            evidence,
            events=[*events, *REQUEUED_EVENTS, *OTHER_TENANT_EVENTS],
            jobs={**evidence.jobs, "a": job("a", len(events), state=events[-1].state)},
            streams=[stream(*events, *REQUEUED_EVENTS)],
        )

    return falsify


def with_stream(*events: EventRow) -> Falsify:
    return lambda evidence: replace(evidence, streams=[stream(*events)])


ALL_EVENTS = (*RETRIED_EVENTS, *REQUEUED_EVENTS)
EARLY_START = replace(RETRIED_EVENTS[2], time=at(1.4))
OVERDUE_RETRY = replace(RETRIED_EVENTS[3], due_time=at(60))
# The policy allows only two attempts.
THREE_ATTEMPTS = [
    *RETRIED_EVENTS[:6],
    row(7, _E.RETRY_SCHEDULED, _S.RETRYING, 2, due=8),
    row(8, _E.DUE, _S.QUEUED, 2),
    row(9, _E.STARTED, _S.RUNNING, 3),
    row(10, _E.SUCCEEDED, _S.SUCCEEDED, 3),
]

FALSIFIED_HISTORIES: list[tuple[str, str, Falsify]] = [
    ("I1", "an acknowledged job is missing", without_job),
    ("I1", "a job has not ended", with_jobs(c=job("c", 0, state=_S.RUNNING))),
    (
        "I1",
        "the job of a rejected submit exists",
        lambda e: replace(
            e,
            submissions=[
                *e.submissions,
                Submission(request_id="key-b", invoked=0.0, outcome=Outcome.FAILED),
            ],
        ),
    ),
    (
        "I2",
        "two terminal events were accepted",
        with_events(*RETRIED_EVENTS, row(8, _E.FAILED, _S.FAILED, 2)),
    ),
    ("I2", "no terminal event was accepted", with_events(*RETRIED_EVENTS[:6])),
    (
        "I2",
        "an event follows the terminal event",
        with_events(*RETRIED_EVENTS, row(8, _E.STARTED, _S.RUNNING, 3)),
    ),
    ("I3", "a number is missing", with_events(*RETRIED_EVENTS[:4], *RETRIED_EVENTS[5:])),
    (
        "I3",
        "a transition outside the lifecycle",
        with_events(*RETRIED_EVENTS[:2], row(3, _E.SUCCEEDED, _S.SUCCEEDED, 0)),
    ),
    (
        "I3",
        "an attempt number decreases",
        with_events(*RETRIED_EVENTS[:5], replace(RETRIED_EVENTS[5], attempt=1), RETRIED_EVENTS[6]),
    ),
    ("I3", "the row and its events differ", with_jobs(a=job("a", 8))),
    ("I3", "the row is in a different state", with_jobs(a=job("a", 7, state=_S.CANCELLED))),
    (
        "I4",
        "a stream misses an event",
        with_stream(*RETRIED_EVENTS[:3], *RETRIED_EVENTS[4:], *REQUEUED_EVENTS),
    ),
    ("I4", "a stream misses the end", with_stream(*RETRIED_EVENTS, *REQUEUED_EVENTS[:5])),
    ("I4", "a stream repeats an event", with_stream(*ALL_EVENTS, RETRIED_EVENTS[0])),
    (
        "I4",
        "a stream mixes up two events",
        with_stream(
            *RETRIED_EVENTS[:2],
            RETRIED_EVENTS[3],
            RETRIED_EVENTS[2],
            *RETRIED_EVENTS[4:],
            *REQUEUED_EVENTS,
        ),
    ),
    (
        "I4",
        "a stream delivers an event that does not exist",
        with_stream(*ALL_EVENTS, replace(RETRIED_EVENTS[6], seq=8)),
    ),
    (
        "I4",
        "a stream delivers an event outside its filter",
        lambda e: replace(
            e, streams=[stream(*ALL_EVENTS, wanted=StreamFilter(labels={"of": "a"}))]
        ),
    ),
    (
        "I4",
        "a stream resumes after a gap",
        lambda e: replace(
            e,
            streams=[
                StreamLog(
                    name="s",
                    wanted=StreamFilter(job_ids=("a",)),
                    shown=[
                        *(received_event(event) for event in RETRIED_EVENTS[:3]),
                        *(received_event(event, 2) for event in RETRIED_EVENTS[4:]),
                    ],
                )
            ],
        ),
    ),
    (
        "I4",
        "a stream ends with a failure",
        lambda e: replace(
            e,
            streams=[
                StreamLog(
                    name="s",
                    wanted=StreamFilter(job_ids=("a",)),
                    shown=[received_event(event) for event in RETRIED_EVENTS],
                    failure="INTERNAL",
                )
            ],
        ),
    ),
    (
        "I5",
        "a job is started before its time",
        with_events(*RETRIED_EVENTS[:2], EARLY_START, *RETRIED_EVENTS[3:]),
    ),
    (
        "I5",
        "a retry is due before its time",
        with_events(
            *RETRIED_EVENTS[:4], replace(RETRIED_EVENTS[4], time=at(4.5)), *RETRIED_EVENTS[5:]
        ),
    ),
    ("I6", "a job has too many attempts", with_events(*THREE_ATTEMPTS)),
    (
        "I6",
        "a job fails for fewer workers than it may lose",
        with_events(*RETRIED_EVENTS[:6], row(7, _E.WORKER_LOST, _S.FAILED, 2)),
    ),
    (
        "I6",
        "a retry waits too long",
        with_events(*RETRIED_EVENTS[:3], OVERDUE_RETRY, *RETRIED_EVENTS[4:]),
    ),
    (
        "I6",
        "a first retry waits as long as a later one may",
        with_events(
            *RETRIED_EVENTS[:3], replace(RETRIED_EVENTS[3], due_time=at(4 + 5)), *RETRIED_EVENTS[4:]
        ),
    ),
    (
        "I7",
        "a stream delivers another tenant's job",
        with_stream(*ALL_EVENTS, *OTHER_TENANT_EVENTS),
    ),
    (
        "I8",
        "memory is not released",
        lambda e: replace(e, usages=[Usage(what="memory", before=100, after=111)]),
    ),
    (
        "I8",
        "a connection stays open",
        lambda e: replace(e, usages=[Usage(what="sessions", before=10, after=13, slack=1)]),
    ),
    ("I9", "one key has two jobs", with_jobs(c=job("c", 1, request_id="key-b"))),
    (
        "I9",
        "one key returned two jobs",
        lambda e: replace(
            e,
            submissions=[
                *e.submissions,
                Submission(request_id="key-b", invoked=0.0, outcome=Outcome.OK, job_id="a"),
            ],
        ),
    ),
    (
        "I10",
        "the throughput returns too late",
        lambda e: replace(e, recoveries=[Recovery(what="crash", before=50, seconds=31)]),
    ),
    (
        "I10",
        "the throughput never returns",
        lambda e: replace(e, recoveries=[Recovery(what="crash", before=50, seconds=None)]),
    ),
    (
        "I10",
        "there was no throughput before",
        lambda e: replace(e, recoveries=[Recovery(what="crash", before=0, seconds=1.0)]),
    ),
]


@pytest.mark.parametrize(
    ("invariant", "falsify"),
    [
        pytest.param(invariant, falsify, id=f"{invariant}: {what}")
        for invariant, what, falsify in FALSIFIED_HISTORIES
    ],
)
def test_falsified_history_breaks_its_invariant(invariant: str, falsify: Falsify):
    assert invariant in broken_invariants(falsify(valid_history()))


def test_every_invariant_has_a_falsified_history():
    assert {invariant for invariant, _, _ in FALSIFIED_HISTORIES} == set(INVARIANTS)


def test_resumed_stream_may_repeat_events_after_the_last_cursor():
    resumed = StreamLog(
        name="s",
        wanted=StreamFilter(job_ids=("a",)),
        shown=[
            *(received_event(event) for event in RETRIED_EVENTS[:4]),
            *(received_event(event, 2) for event in RETRIED_EVENTS[2:]),
        ],
    )
    assert broken_invariants(replace(valid_history(), streams=[resumed])) == set()


def test_isolation_of_a_single_tenant_is_not_checked():
    alone = valid_history().of_load_tenant()
    assert "n" not in alone.jobs
    assert "I7" not in judge(alone, ())


def test_attempts_lost_with_workers_are_not_retries():
    lost = [
        *RETRIED_EVENTS[:6],
        row(7, _E.WORKER_LOST, _S.QUEUED, 2),
        row(8, _E.STARTED, _S.RUNNING, 3),
        row(9, _E.SUCCEEDED, _S.SUCCEEDED, 3),
    ]
    assert broken_invariants(with_events(*lost)(valid_history())) == set()


def test_repeated_runs_and_outcomes_are_counted():
    evidence = valid_history()
    assert (
        count_later_attempts(evidence),
        count_repeated_starts(evidence),
        repeated_ends(evidence),
    ) == (2, 0, [])
    again = replace(evidence, ledger=[*evidence.ledger, LedgerEntry("a", 2)])
    assert (count_later_attempts(again), count_repeated_starts(again)) == (3, 1)
    twice = with_events(*RETRIED_EVENTS, row(8, _E.FAILED, _S.FAILED, 2))(evidence)
    assert len(repeated_ends(twice)) == 1
