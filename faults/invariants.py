"""The invariants. Each check takes the evidence and returns the breaches.

`test_invariants.py` breaks each invariant on purpose: a check that cannot fail proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from faults.evidence import EventId, EventRow, Evidence, Outcome, StreamLog
from headrace_core.domain.lifecycle import TERMINAL, EventType, allows
from headrace_core.runtime.settings import Settings

# The tolerated relative change of a resource, and of the throughput after a recovery.
TOLERANCE = 0.10
# The default crash budget.
_MAX_WORKER_LOSSES: int = Settings.model_fields["max_worker_losses"].default
# The tolerated difference of two clock readings in one statement.
_CLOCK_TOLERANCE = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check: the number of items checked, and the breaches."""

    checked: int
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Invariant:
    """A promise and its check."""

    id: str
    promise: str
    check: Callable[[Evidence], Verdict]


def _acknowledged_jobs_end(evidence: Evidence) -> Verdict:
    acknowledged = [s for s in evidence.submissions if s.outcome is Outcome.OK]
    broken = [
        f"{s.request_id}: job {s.job_id} was acknowledged but is missing"
        for s in acknowledged
        if s.job_id not in evidence.jobs
    ]
    broken += [
        f"{job.id} has not ended; its state is {job.state}"
        for job in evidence.jobs.values()
        if job.state not in TERMINAL
    ]
    rejected = {s.request_id for s in evidence.submissions if s.outcome is Outcome.FAILED}
    broken += [
        f"{job.request_id} was rejected, but job {job.id} exists"
        for job in evidence.jobs.values()
        if job.request_id in rejected
    ]
    return Verdict(len(evidence.jobs) + len(acknowledged), tuple(broken))


def lives(history: list[EventRow]) -> Iterator[list[EventRow]]:
    """Yield the events of each life of a job; a life starts with the submit or a requeue."""
    life: list[EventRow] = []
    for event in history:
        if event.type is EventType.REQUEUED:
            yield life
            life = []
        life.append(event)
    yield life


def repeated_ends(evidence: Evidence) -> list[str]:
    """Return a message for each submit or requeue with more than one terminal event."""
    broken = []
    for job_id, history in evidence.by_job().items():
        for life in lives(history):
            ends = [str(event.type) for event in life if event.state in TERMINAL]
            if len(ends) > 1:
                broken.append(f"{job_id} ended {len(ends)} times: {', '.join(ends)}")
    return broken


def _one_terminal_event(evidence: Evidence) -> Verdict:
    broken = repeated_ends(evidence)
    checked = 0
    for job_id, history in evidence.by_job().items():
        for life in lives(history):
            checked += 1
            if not any(event.state in TERMINAL for event in life):
                broken.append(f"{job_id} has no terminal event")
            elif life[-1].state not in TERMINAL:
                broken.append(f"{job_id}: {life[-1].type} follows its terminal event")
    return Verdict(checked, tuple(broken))


def _legal_transitions(evidence: Evidence) -> Verdict:
    broken = []
    for job_id, history in evidence.by_job().items():
        seqs = [event.seq for event in history]
        if seqs != list(range(1, len(seqs) + 1)):
            broken.append(f"{job_id}: the events have the numbers {seqs}")
        state, attempt = None, 0
        for event in history:
            if not allows(state, event.type, event.state):
                broken.append(f"{job_id}: {event.type} leads from {state} to {event.state}")
            attempt += event.type is EventType.STARTED
            if event.attempt != attempt:
                broken.append(f"{job_id}: {event.type} has attempt {event.attempt}, not {attempt}")
            state = event.state
        job = evidence.jobs.get(job_id)
        if job is None:
            broken.append(f"{job_id} has events but no row")
        elif (job.state, job.seq) != (state, len(history)):
            broken.append(f"{job_id}: row is {job.state}, {job.seq}; events end in {state}")
    return Verdict(len(evidence.events), tuple(broken))


def _streams_show_the_log(evidence: Evidence) -> Verdict:
    broken: list[str] = []
    checked = 0
    histories = evidence.by_job()
    for stream in evidence.streams:
        # A shortcut: most streams filter by one job id.
        found = stream.wanted.job_ids or evidence.jobs
        wanted = {
            event.name
            for job_id in found
            if (job := evidence.jobs.get(job_id))
            for event in histories[job_id]
            if stream.wanted.matches(job, event)
        }
        checked += len(wanted)
        broken += _compare(stream, wanted)
    return Verdict(checked, tuple(broken))


def _compare(stream: StreamLog, wanted: set[EventId]) -> Iterator[str]:
    if stream.failure:
        yield f"{stream.name} failed: {stream.failure}"
    seen: set[EventId] = set()
    highest: dict[str, int] = {}
    connection, connection_seen, connection_highest = 0, set[EventId](), dict[str, int]()
    for shown in stream.shown:
        # A resumed stream may repeat events after its reader's cursor.
        if shown.connection != connection:
            connection, connection_seen, connection_highest = shown.connection, set(), {}
        before = connection_highest.get(shown.job_id, 0)
        if shown.name not in seen:
            before = max(before, highest.get(shown.job_id, 0))
        if shown.name in connection_seen:
            yield f"{stream.name} delivered {shown.name} twice on one connection"
        elif shown.seq < before:
            yield f"{stream.name} delivered {shown.name} after number {before}"
        seen.add(shown.name)
        connection_seen.add(shown.name)
        for numbers in (highest, connection_highest):
            numbers[shown.job_id] = max(shown.seq, numbers.get(shown.job_id, 0))
    for name in sorted(wanted - seen):
        yield f"{stream.name} did not deliver {name}"
    for name in sorted(seen - wanted):
        yield f"{stream.name} delivered {name}, which does not match its filter"


def _never_early(evidence: Evidence) -> Verdict:
    broken = []
    checked = 0
    for job_id, history in evidence.by_job().items():
        not_before: datetime | None = None
        for event in history:
            if event.type in (EventType.SUBMITTED, EventType.RETRY_SCHEDULED):
                not_before = event.due_time
            elif event.type is EventType.REQUEUED:
                not_before = None
            elif event.type in (EventType.DUE, EventType.STARTED) and not_before is not None:
                checked += 1
                if event.time < not_before:
                    early = (not_before - event.time).total_seconds()
                    broken.append(f"{job_id}: {event.type} was {early:.3f} s early")
    return Verdict(checked, tuple(broken))


def _retries_within_policy(evidence: Evidence) -> Verdict:
    broken = []
    checked = 0
    for job_id, history in evidence.by_job().items():
        job = evidence.jobs.get(job_id)
        if job is None:
            continue
        for life in lives(history):
            kinds = Counter(event.type for event in life)
            retries = kinds[EventType.RETRY_SCHEDULED]
            # An attempt lost with its worker is not a retry.
            interruptions = kinds[EventType.INTERRUPTED] + kinds[EventType.WORKER_LOST]
            checked += kinds[EventType.STARTED]
            if retries > job.policy.max_attempts - 1:
                broken.append(f"{job_id} was retried {retries} times")
            if kinds[EventType.STARTED] > job.policy.max_attempts + interruptions:
                broken.append(f"{job_id} was started {kinds[EventType.STARTED]} times")
            losses = kinds[EventType.WORKER_LOST]
            ended = {event.type for event in life if event.state in TERMINAL}
            if EventType.WORKER_LOST in ended and losses <= _MAX_WORKER_LOSSES:
                broken.append(f"{job_id} failed after only {losses} lost workers")
            waits = [
                event.due_time - event.time
                for event in life
                if event.type is EventType.RETRY_SCHEDULED and event.due_time is not None
            ]
            backoff = job.policy.initial_backoff
            for number, wait in enumerate(waits, 1):
                # A retry may wait for its backoff plus a callee's Retry-After.
                if (
                    not -_CLOCK_TOLERANCE
                    <= wait
                    <= backoff + job.max_retry_after + _CLOCK_TOLERANCE
                ):
                    broken.append(f"{job_id}: retry {number} waits {wait.total_seconds():.1f} s")
                backoff = min(backoff * job.policy.multiplier, job.policy.max_backoff)
    return Verdict(checked, tuple(broken))


def _tenants_isolated(evidence: Evidence) -> Verdict:
    broken = []
    checked = 0
    tenants = {job.tenant for job in evidence.jobs.values()}
    for stream in evidence.streams:
        # With a single tenant there is nothing to check.
        if tenants - {stream.wanted.tenant}:
            checked += len(stream.shown)
        for shown in stream.shown:
            job = evidence.jobs.get(shown.job_id)
            if job is not None and job.tenant != stream.wanted.tenant:
                broken.append(f"{stream.name} delivered {shown.name} of tenant {job.tenant}")
    return Verdict(checked, tuple(broken))


def _resources_are_released(evidence: Evidence) -> Verdict:
    broken = [
        f"{usage.what}: {usage.before:g} {usage.unit} before, {usage.after:g} after"
        for usage in evidence.usages
        if abs(usage.after - usage.before) > usage.before * TOLERANCE + usage.slack
    ]
    return Verdict(len(evidence.usages), tuple(broken))


def _one_key_one_job(evidence: Evidence) -> Verdict:
    broken = []
    jobs: dict[tuple[str, str], list[str]] = {}
    for job in evidence.jobs.values():
        if job.request_id is not None:
            jobs.setdefault((job.tenant, job.request_id), []).append(job.id)
    for (_, request_id), ids in jobs.items():
        if len(ids) > 1:
            broken.append(f"{request_id} has {len(ids)} jobs: {', '.join(ids)}")
    acknowledged: dict[str, set[str]] = {}
    for submission in evidence.submissions:
        if submission.outcome is Outcome.OK:
            acknowledged.setdefault(submission.request_id, set()).add(submission.job_id)
    for request_id, returned in acknowledged.items():
        if len(returned) > 1:
            broken.append(
                f"{request_id} returned {len(returned)} jobs: {', '.join(sorted(returned))}"
            )
        broken += [
            f"{request_id} returned {job_id}, the job of another key"
            for job_id in returned
            if job_id in evidence.jobs and evidence.jobs[job_id].request_id != request_id
        ]
    return Verdict(len(jobs), tuple(broken))


def _throughput_returns(evidence: Evidence) -> Verdict:
    broken = []
    for recovery in evidence.recoveries:
        if recovery.before <= 0:
            broken.append(f"{recovery.what}: no job ended before the fault")
        elif recovery.seconds is None:
            broken.append(
                f"{recovery.what}: never returned to 90 % of {recovery.before:.0f} jobs/s"
            )
        elif recovery.seconds > recovery.limit:
            broken.append(
                f"{recovery.what}: recovered after {recovery.seconds:.1f} s, "
                f"the limit is {recovery.limit:g} s"
            )
    return Verdict(len(evidence.recoveries), tuple(broken))


INVARIANTS = {
    invariant.id: invariant
    for invariant in (
        Invariant("I1", "every acknowledged job ends; none is missing", _acknowledged_jobs_end),
        Invariant("I2", "exactly one terminal event", _one_terminal_event),
        Invariant("I3", "only transitions of the lifecycle, without a gap", _legal_transitions),
        Invariant("I4", "streams show the event log, each job in order", _streams_show_the_log),
        Invariant("I5", "no job starts before its time", _never_early),
        Invariant("I6", "retries follow the policy", _retries_within_policy),
        Invariant("I7", "no stream shows another tenant", _tenants_isolated),
        Invariant("I8", "resources return to within 10 %", _resources_are_released),
        Invariant("I9", "each idempotency key belongs to one job", _one_key_one_job),
        Invariant("I10", "90 % of the throughput returns in time", _throughput_returns),
    )
}


def judge(evidence: Evidence, required: tuple[str, ...]) -> dict[str, Verdict]:
    """Check every invariant that has evidence.

    Args:
        evidence: the evidence of a trial.
        required: the invariants that must have evidence; without evidence they count as broken.

    Returns:
        The verdicts by invariant. Invariants without evidence are omitted unless required.
    """
    verdicts = {}
    for invariant in INVARIANTS.values():
        verdict = invariant.check(evidence)
        if not verdict.checked and not verdict.broken:
            if invariant.id not in required:
                continue
            verdict = Verdict(0, ("no evidence",))
        verdicts[invariant.id] = verdict
    return verdicts


def count_later_attempts(evidence: Evidence) -> int:
    """Return the number of attempts that ran in addition to the first of each job."""
    return len(evidence.ledger) - len({run.job_id for run in evidence.ledger})


def count_repeated_starts(evidence: Evidence) -> int:
    """Return how often an attempt was started again."""
    return sum(count - 1 for count in Counter(evidence.ledger).values())
