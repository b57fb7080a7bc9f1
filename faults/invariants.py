"""The invariants. Each one is a function of the evidence that says what breaks it.

`test_invariants.py` breaks each of them on purpose: a check that cannot fail shows nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from faults.evidence import EventRow, Evidence, Name, Outcome, StreamLog
from headrace_core.domain.lifecycle import TERMINAL, EventType, allows
from headrace_core.runtime.settings import Settings

# How far memory and the like may be off afterwards, and the share of the throughput that counts as
# recovered.
TOLERANCE = 0.10
# How many workers a job may lose, by default; that is a budget of its own.
_MAX_WORKER_LOSSES: int = Settings.model_fields["max_worker_losses"].default
# Two clock readings of one statement.
_INSTANT = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check: how much it has looked at, and what is wrong."""

    looked_at: int
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Invariant:
    """One of the promises, and how it is checked."""

    id: str
    promise: str
    check: Callable[[Evidence], Verdict]


def _acknowledged_jobs_end(evidence: Evidence) -> Verdict:
    acknowledged = [s for s in evidence.submissions if s.outcome is Outcome.OK]
    broken = [
        f"{s.request_id}: its job {s.job_id} was acknowledged and is missing"
        for s in acknowledged
        if s.job_id not in evidence.jobs
    ]
    broken += [
        f"{job.id} has not ended: {job.state}"
        for job in evidence.jobs.values()
        if job.state not in TERMINAL
    ]
    refused = {s.request_id for s in evidence.submissions if s.outcome is Outcome.FAILED}
    broken += [
        f"{job.request_id} was refused, and there is a job {job.id}"
        for job in evidence.jobs.values()
        if job.request_id in refused
    ]
    return Verdict(len(evidence.jobs) + len(acknowledged), tuple(broken))


def lives(history: list[EventRow]) -> Iterator[list[EventRow]]:
    """A job's events from its submit, or a requeue, to the next requeue."""
    life: list[EventRow] = []
    for event in history:
        if event.type is EventType.REQUEUED:
            yield life
            life = []
        life.append(event)
    yield life


def accepted_twice(evidence: Evidence) -> list[str]:
    """The jobs of which more than one outcome was accepted, with how many."""
    broken = []
    for job_id, history in evidence.by_job().items():
        for life in lives(history):
            ends = [str(event.type) for event in life if event.state in TERMINAL]
            if len(ends) > 1:
                broken.append(f"{job_id} has ended {len(ends)} times: {', '.join(ends)}")
    return broken


def _one_terminal_event(evidence: Evidence) -> Verdict:
    broken = accepted_twice(evidence)
    looked_at = 0
    for job_id, history in evidence.by_job().items():
        for life in lives(history):
            looked_at += 1
            if not any(event.state in TERMINAL for event in life):
                broken.append(f"{job_id} has no terminal event")
            elif life[-1].state not in TERMINAL:
                broken.append(f"{job_id}: {life[-1].type} comes after its terminal event")
    return Verdict(looked_at, tuple(broken))


def _legal_steps(evidence: Evidence) -> Verdict:
    broken = []
    for job_id, history in evidence.by_job().items():
        seqs = [event.seq for event in history]
        if seqs != list(range(1, len(seqs) + 1)):
            broken.append(f"{job_id}: its events are numbered {seqs}")
        state, attempt = None, 0
        for event in history:
            if not allows(state, event.type, event.state):
                broken.append(f"{job_id}: {event.type} leads from {state} to {event.state}")
            attempt += event.type is EventType.STARTED
            if event.attempt != attempt:
                broken.append(
                    f"{job_id}: {event.type} is of attempt {event.attempt}, not {attempt}"
                )
            state = event.state
        job = evidence.jobs.get(job_id)
        if job is None:
            broken.append(f"{job_id} has events and no row")
        elif (job.state, job.seq) != (state, len(history)):
            broken.append(f"{job_id}: its row says {job.state}, {job.seq}; its events {state}")
    return Verdict(len(evidence.events), tuple(broken))


def _streams_show_the_log(evidence: Evidence) -> Verdict:
    broken: list[str] = []
    looked_at = 0
    histories = evidence.by_job()
    for stream in evidence.streams:
        # Most streams want one job.
        found = stream.wanted.job_ids or evidence.jobs
        wanted = {
            event.name
            for job_id in found
            if (job := evidence.jobs.get(job_id))
            for event in histories[job_id]
            if stream.wanted.matches(job, event)
        }
        looked_at += len(wanted)
        broken += _compare(stream, wanted)
    return Verdict(looked_at, tuple(broken))


def _compare(stream: StreamLog, wanted: set[Name]) -> Iterator[str]:
    if stream.failure:
        yield f"{stream.name} has failed: {stream.failure}"
    seen: set[Name] = set()
    furthest: dict[str, int] = {}
    connection, here, here_furthest = 0, set[Name](), dict[str, int]()
    for shown in stream.shown:
        # A stream that is resumed may repeat what its reader had no newer cursor for.
        if shown.connection != connection:
            connection, here, here_furthest = shown.connection, set(), {}
        before = here_furthest.get(shown.job_id, 0)
        if shown.name not in seen:
            before = max(before, furthest.get(shown.job_id, 0))
        if shown.name in here:
            yield f"{stream.name} has shown {shown.name} twice on one connection"
        elif shown.seq < before:
            yield f"{stream.name} has shown {shown.name} after number {before}"
        seen.add(shown.name)
        here.add(shown.name)
        for numbers in (furthest, here_furthest):
            numbers[shown.job_id] = max(shown.seq, numbers.get(shown.job_id, 0))
    for name in sorted(wanted - seen):
        yield f"{stream.name} has not shown {name}"
    for name in sorted(seen - wanted):
        yield f"{stream.name} has shown {name}, for which it did not ask"


def _never_early(evidence: Evidence) -> Verdict:
    broken = []
    looked_at = 0
    for job_id, history in evidence.by_job().items():
        not_before: datetime | None = None
        for event in history:
            if event.type in (EventType.SUBMITTED, EventType.RETRY_SCHEDULED):
                not_before = event.due_time
            elif event.type is EventType.REQUEUED:
                not_before = None
            elif event.type in (EventType.DUE, EventType.STARTED) and not_before is not None:
                looked_at += 1
                if event.time < not_before:
                    early = (not_before - event.time).total_seconds()
                    broken.append(f"{job_id}: {event.type} came {early:.3f} s before its time")
    return Verdict(looked_at, tuple(broken))


def _retries_within_policy(evidence: Evidence) -> Verdict:
    broken = []
    looked_at = 0
    for job_id, history in evidence.by_job().items():
        job = evidence.jobs.get(job_id)
        if job is None:
            continue
        for life in lives(history):
            kinds = Counter(event.type for event in life)
            retries = kinds[EventType.RETRY_SCHEDULED]
            # What a worker's end has cost is no retry.
            given_back = kinds[EventType.INTERRUPTED] + kinds[EventType.WORKER_LOST]
            looked_at += kinds[EventType.STARTED]
            if retries > job.policy.max_attempts - 1:
                broken.append(f"{job_id} was tried again {retries} times")
            if kinds[EventType.STARTED] > job.policy.max_attempts + given_back:
                broken.append(f"{job_id} was started {kinds[EventType.STARTED]} times")
            losses = kinds[EventType.WORKER_LOST]
            ended = {event.type for event in life if event.state in TERMINAL}
            if EventType.WORKER_LOST in ended and losses <= _MAX_WORKER_LOSSES:
                broken.append(f"{job_id} has failed for {losses} lost workers")
            waits = [
                event.due_time - event.time
                for event in life
                if event.type is EventType.RETRY_SCHEDULED and event.due_time is not None
            ]
            backoff = job.policy.initial_backoff
            for number, wait in enumerate(waits, 1):
                # Each may wait as long as its own backoff, and what it was told on top of that.
                if not -_INSTANT <= wait <= backoff + job.asked + _INSTANT:
                    broken.append(f"{job_id}: retry {number} waits {wait.total_seconds():.1f} s")
                backoff = min(backoff * job.policy.multiplier, job.policy.max_backoff)
    return Verdict(looked_at, tuple(broken))


def _tenants_apart(evidence: Evidence) -> Verdict:
    broken = []
    looked_at = 0
    tenants = {job.tenant for job in evidence.jobs.values()}
    for stream in evidence.streams:
        # Where there is nobody else, nothing of theirs could have been shown.
        if tenants - {stream.wanted.tenant}:
            looked_at += len(stream.shown)
        for shown in stream.shown:
            job = evidence.jobs.get(shown.job_id)
            if job is not None and job.tenant != stream.wanted.tenant:
                broken.append(f"{stream.name} has shown {shown.name} of {job.tenant}")
    return Verdict(looked_at, tuple(broken))


def _nothing_left_behind(evidence: Evidence) -> Verdict:
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
    for request_id, told in acknowledged.items():
        if len(told) > 1:
            broken.append(f"{request_id} was told {len(told)} jobs: {', '.join(sorted(told))}")
        broken += [
            f"{request_id} was told {job_id}, the job of another key"
            for job_id in told
            if job_id in evidence.jobs and evidence.jobs[job_id].request_id != request_id
        ]
    return Verdict(len(jobs), tuple(broken))


def _throughput_is_back(evidence: Evidence) -> Verdict:
    broken = []
    for recovery in evidence.recoveries:
        if recovery.before <= 0:
            broken.append(f"{recovery.what}: no job had ended before")
        elif recovery.seconds is None:
            broken.append(f"{recovery.what}: never back at 90 % of {recovery.before:.0f} jobs/s")
        elif recovery.seconds > recovery.limit:
            broken.append(
                f"{recovery.what}: back after {recovery.seconds:.1f} s, and not {recovery.limit:g}"
            )
    return Verdict(len(evidence.recoveries), tuple(broken))


INVARIANTS = {
    invariant.id: invariant
    for invariant in (
        Invariant("I1", "every acknowledged job ends, none is missing", _acknowledged_jobs_end),
        Invariant("I2", "exactly one terminal event", _one_terminal_event),
        Invariant("I3", "only steps of the lifecycle, numbered without a gap", _legal_steps),
        Invariant("I4", "the streams show the log, each job in order", _streams_show_the_log),
        Invariant("I5", "never started before its time", _never_early),
        Invariant("I6", "retries within the policy", _retries_within_policy),
        Invariant("I7", "nothing of another tenant", _tenants_apart),
        Invariant("I8", "nothing is left behind, within 10 %", _nothing_left_behind),
        Invariant("I9", "one key, one job", _one_key_one_job),
        Invariant("I10", "90 % of the throughput is back in time", _throughput_is_back),
    )
}


def judge(evidence: Evidence, required: tuple[str, ...]) -> dict[str, Verdict]:
    """Checks every invariant that there is something to check of.

    Args:
        evidence: all that there is.
        required: invariants that the scenario is to show: having looked at nothing breaks them.

    Returns:
        The verdicts by invariant, those without anything to look at left out.
    """
    verdicts = {}
    for invariant in INVARIANTS.values():
        verdict = invariant.check(evidence)
        if not verdict.looked_at and not verdict.broken:
            if invariant.id not in required:
                continue
            verdict = Verdict(0, ("there was nothing to look at",))
        verdicts[invariant.id] = verdict
    return verdicts


def run_again(evidence: Evidence) -> int:
    """How many attempts were run beyond the first of their job."""
    return len(evidence.ledger) - len({run.job_id for run in evidence.ledger})


def run_twice(evidence: Evidence) -> int:
    """How many attempts a handler was given more than once."""
    return sum(count - 1 for count in Counter(evidence.ledger).values())
