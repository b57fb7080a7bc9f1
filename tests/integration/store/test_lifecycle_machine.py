"""After any sequence of calls, the store agrees with a model of jobs.

Every run uses the same seed. `HEADRACE_TEST_LIFECYCLE_EXAMPLES=1000` runs 1,000 random
sequences instead. A failure prints its steps and how to repeat them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from headrace_core.domain.attempt import AttemptKey, AttemptReport
from headrace_core.domain.errors import JobNotFound, RequestIdConflict, StaleTerm, StateConflict
from headrace_core.domain.ids import BatchId, uuid7
from headrace_core.domain.job import DEFAULT_QUEUE, DEFAULT_TENANT, Job, JobEvent, JobSpec, Progress
from headrace_core.domain.lifecycle import EventType, JobState, sources
from headrace_core.domain.submission import NewBatch, Repeated, SubmittedBatch
from headrace_core.runtime.settings import Settings
from headrace_core.store.event_log import list_output
from headrace_core.store.jobs.cancel import cancel_job, cancel_requests
from headrace_core.store.jobs.claim import held_attempts
from headrace_core.store.jobs.promote import promote_due
from headrace_core.store.jobs.read import list_jobs
from headrace_core.store.jobs.recover import expire_overdue, recover_lost
from headrace_core.store.jobs.requeue import requeue_job
from headrace_core.store.jobs.submit import submit_jobs
from headrace_core.store.jobs.submit_batch import submit_batch
from headrace_core.store.sql.connection import Connection
from headrace_core.store.sql.database import Database
from headrace_core.store.workers import remove_lapsed, remove_worker, renew_lease
from support.histories import ROWS, Row, assert_legal, rows_report
from support.jobs import history, new_job, set_column
from support.leading import lead
from support.lifecycle_model import LifecycleModel, ModelBatch, ModelJob, ModelWorker
from support.retention import prune
from support.workers import attempt_end, claim, lapse, register, report, write_ends

T = TypeVar("T")

_EXAMPLES = "HEADRACE_TEST_LIFECYCLE_EXAMPLES"
_LONG_DELAY = timedelta(hours=1)
# Hypothesis draws constants from all loaded modules, so the actions of a seed depend on earlier
# tests. If a seed does not reach a row of the lifecycle table, the test tries more seeds, each with
# few examples.
_MORE_SEEDS = 30
_EXAMPLES_PER_SEED = 10

keys = st.sampled_from([None, None, "a key", "another key"])
contents = st.integers(0, 1)
sizes = st.integers(1, 3)
flags = st.booleans()
# A loop's page size. 0 means that the loop does not run.
limits = st.sampled_from([1000, 1000, 1, 0])
# The difference from the current attempt number, mostly 0.
shifts = st.sampled_from([0, 0, 0, 0, 0, -1, 1])
# Reports: pieces of output, and progress in tenths.
report_lists = st.lists(st.none() | st.integers(0, 10), min_size=1, max_size=3)
# If True, an action chooses among the jobs that it can change; if False, among all jobs.
prefers_suitable = st.sampled_from([True] * 7 + [False])
ends = st.sampled_from(
    [
        EventType.RETRY_SCHEDULED,
        EventType.INTERRUPTED,
        EventType.FAILED,
        EventType.SUCCEEDED,
        EventType.CANCELLED,
        EventType.EXPIRED,
    ]
)
# Actions that continue a job are drawn more often than those that end it.
ACTIONS = (
    *("submit", "submit_a_batch", "cancel", "requeue"),
    *("claim", "claim", "claim", "end", "end", "report"),
    *("promote", "recover", "expire", "prune", "change_worker", "remove_lapsed"),
)


class LifecycleMachine(RuleBasedStateMachine):
    """Each action makes the same call to the store and to the model."""

    # The test sets the database, the function that runs a coroutine, and the counted transitions of
    # all runs.
    database: Database
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    covered_rows: Counter[Row]

    def __init__(self) -> None:
        super().__init__()
        self.model = LifecycleModel(self.covered_rows)
        self.seen: dict[object, tuple[Job, list[JobEvent]]] = {}
        self.run(_empty_tables(self.database))
        self.term = self.run(lead(self.database))

    @initialize()
    def create_job_in_each_state(self) -> None:
        """Create a job in each state, so that every row of the lifecycle is one action away."""
        self._register()
        for later in (False, False, False, False, True, True):
            self._submit(None, 0, later=later, deadline=True)
        [worker], jobs = self.model.workers, self.model.jobs
        _, running, retrying, failed, _, expiring = jobs
        self._claim(worker, [running, retrying, failed], shift=0)
        self._write_ends([retrying], _RETRY, shift=0, soon=False, other=None)
        self._write_ends([failed], EventType.FAILED, shift=0, soon=False, other=None)
        # The requeue of this job keeps its future schedule time.
        self._set_times(expiring, "deadline = now() - interval '10 min'")
        expiring.overdue = True
        self._in_transaction(
            lambda connection: expire_overdue(
                connection, term=self.term, limit=1, running_grace=timedelta()
            )
        )
        self.model.expire(expiring)

    # All actions share one rule. With many rules, Hypothesis would disable most of them in each
    # run, and few jobs would end.
    @rule(action=st.sampled_from(ACTIONS), data=st.data())
    def act(self, action: str, data: st.DataObject) -> None:
        getattr(self, action)(data)

    # Choosing a job or an attempt.

    def _draw_jobs(
        self, data: st.DataObject, fits: Callable[[ModelJob], bool], *, most: int = 3
    ) -> list[ModelJob]:
        """Return some jobs, mostly suitable ones."""
        suitable_only = data.draw(prefers_suitable)
        existing = self.model.jobs
        candidates = [
            job for job in existing if not suitable_only or (fits(job) and not job.pruned)
        ] or existing
        return data.draw(
            st.lists(st.sampled_from(candidates), min_size=1, max_size=most, unique_by=id)
        )

    def _draw_worker(self, data: st.DataObject) -> ModelWorker:
        """Return a worker, mostly a live one."""
        suitable_only = data.draw(prefers_suitable)
        candidates = [
            one for one in self.model.workers if not suitable_only or (one.live and one.registered)
        ]
        return data.draw(st.sampled_from(candidates or self.model.workers))

    # Clients.

    def submit(self, data: st.DataObject) -> None:
        key, content = data.draw(keys), data.draw(contents)
        self._submit(key, content, later=data.draw(flags), deadline=data.draw(flags))

    def _submit(self, key: str | None, content: int, *, later: bool, deadline: bool) -> None:
        times = _schedule_and_deadline(later=later, deadline=deadline)
        new = new_job(request_id=key, payload=str(content), **times)
        if key is not None:
            # Times are part of the content, and differ between calls.
            new = replace(new, fingerprint=bytes([content]))
        [result] = self._in_transaction(lambda connection: submit_jobs(connection, [new]))
        existing_job = self.model.holder(key)
        if existing_job is None:
            assert result.id == new.id
            job = ModelJob(new.id, has_deadline=deadline)
            self.model.submit(job, later=later, key=key, content=content)
            return
        earlier, its_content = existing_job
        if its_content == content:
            assert result.id == earlier.id != new.id
        else:
            assert isinstance(result, RequestIdConflict)
            assert result.existing_id == str(earlier.id)

    def submit_a_batch(self, data: st.DataObject) -> None:
        key, content = data.draw(keys), data.draw(contents)
        size, later, alike = data.draw(sizes), data.draw(flags), data.draw(flags)
        spec = JobSpec(
            type="test", queue=DEFAULT_QUEUE, **_schedule_and_deadline(later=later, deadline=False)
        )
        specs = Repeated([spec], [0] * size) if alike else Repeated([spec] * size, range(size))
        batch = ModelBatch(BatchId(uuid7()), content)
        existing_batch = self.model.batch_holder(key)

        def call(connection: Connection) -> Coroutine[Any, Any, SubmittedBatch]:
            new_batch = NewBatch(
                id=batch.id,
                tenant=DEFAULT_TENANT,
                specs=specs,
                payloads=["{}"] * size,
                request_id=key,
                fingerprint=bytes([content]),
            )
            return submit_batch(connection, new_batch)

        if existing_batch is not None and existing_batch.content != content:
            with pytest.raises(RequestIdConflict) as excinfo:
                self._in_transaction(call)
            assert excinfo.value.existing_id == str(existing_batch.id)
            return
        result = self._in_transaction(call)
        if existing_batch is not None:
            assert (result.id, result.created) == (existing_batch.id, False)
            assert list(result.jobs.ids) == sorted(job.id for job in existing_batch.left)
            return
        assert (result.id, result.created) == (batch.id, True)
        batch.jobs = [ModelJob(job_id, batch=batch) for job_id in result.jobs.ids]
        self.model.submit_batch(batch, later=later, key=key)

    def cancel(self, data: st.DataObject) -> None:
        [job] = self._draw_jobs(data, lambda job: not job.ended, most=1)
        self._request(cancel_job, self.model.cancel, job)

    def requeue(self, data: st.DataObject) -> None:
        [job] = self._draw_jobs(data, lambda job: job.ended, most=1)
        self._request(requeue_job, self.model.requeue, job)

    def _request(
        self,
        function: Callable[..., Coroutine[Any, Any, Job]],
        expect: Callable[[ModelJob], bool],
        job: ModelJob,
    ) -> None:
        def call(connection: Connection) -> Coroutine[Any, Any, Job]:
            return function(connection, tenant=DEFAULT_TENANT, job_id=job.id)

        if job.pruned:
            with pytest.raises(JobNotFound):
                self._in_transaction(call)
            return
        before = job.state
        if not expect(job):
            with pytest.raises(StateConflict) as excinfo:
                self._in_transaction(call)
            assert excinfo.value.state is before
            return
        returned = self._in_transaction(call)
        assert (returned.state, returned.seq) == (job.state, len(job.events))

    # Workers.

    def change_worker(self, data: st.DataObject) -> None:
        action = data.draw(st.sampled_from(["register", "renew", "lapse", "remove"]))
        if action == "register":
            self._register()
            return
        worker = self._draw_worker(data)
        if action == "lapse":
            self._let_lease_lapse(worker)
        elif action == "remove":
            self._in_transaction(lambda connection: remove_worker(connection, worker_id=worker.id))
            worker.registered = False
        else:
            renewed = self._in_transaction(
                lambda connection: renew_lease(
                    connection,
                    worker_id=worker.id,
                    lease=_LONG_DELAY,
                    draining=data.draw(flags),
                )
            )
            assert renewed == (worker.registered and worker.live)

    def _let_lease_lapse(self, worker: ModelWorker) -> None:
        self.run(lapse(self.database, worker.id))
        worker.live = False

    def _register(self) -> None:
        self.model.workers.append(ModelWorker(self.run(register(self.database))))

    def remove_lapsed(self, data: st.DataObject) -> None:
        older_than = data.draw(st.sampled_from([timedelta(), _LONG_DELAY]))
        removed = self._call_as_leader(data, remove_lapsed, older_than=older_than)
        if removed is None:
            return
        lapsed = [worker for worker in self.model.workers if worker.registered and not worker.live]
        assert removed == (0 if older_than else len(lapsed))
        for worker in () if older_than else lapsed:
            worker.registered = False

    def claim(self, data: st.DataObject) -> None:
        worker = self._draw_worker(data)
        drawn = self._draw_jobs(data, lambda job: job.state is JobState.QUEUED)
        self._claim(worker, drawn, shift=data.draw(shifts))

    def _claim(self, worker: ModelWorker, drawn: Sequence[ModelJob], *, shift: int) -> None:
        # Each delivery is repeated in the batch.
        deliveries = [AttemptKey(job.id, max(1, job.attempt + 1 + shift)) for job in drawn] * 2
        due = [
            job
            for job, (_, attempt) in zip(drawn, deliveries, strict=False)
            if self.model.may_claim(worker, job, attempt)
        ]
        claimed = self.run(claim(self.database, worker.id, deliveries))
        for job in due:
            self.model.claim(worker, job)
        assert [(*one.key, one.retries_used) for one in claimed] == [
            (job.id, job.attempt, job.retries_used) for job in due
        ]

    def end(self, data: st.DataObject) -> None:
        event, shift, soon = data.draw(ends), data.draw(shifts), data.draw(flags)
        drawn = self._draw_jobs(data, lambda job: job.runs)
        other = None if data.draw(prefers_suitable) else self._draw_worker(data)
        self._write_ends(drawn, event, shift=shift, soon=soon, other=other)

    def _write_ends(
        self,
        drawn: Sequence[ModelJob],
        event: EventType,
        *,
        shift: int,
        soon: bool,
        other: ModelWorker | None,
    ) -> None:
        values = {"backoff": timedelta() if soon else _LONG_DELAY} if event is _RETRY else {}
        by_worker = self._by_worker(drawn, other)
        for worker, worker_jobs in by_worker:
            batch = [
                attempt_end(job.id, max(1, job.attempt + shift), event, **values)
                for job in worker_jobs
            ]
            allowed = [
                job
                for job, end in zip(worker_jobs, batch, strict=True)
                if self.model.owns(worker, job, end.key.attempt)
            ]
            written = self.run(write_ends(self.database, worker.id, *batch))
            assert written == {job.id: self.model.end(job, event) for job in allowed}
            for job in allowed:
                job.due = event is _RETRY and soon
            # A repeated write is refused.
            assert self.run(write_ends(self.database, worker.id, *batch)) == {}

    def report(self, data: st.DataObject) -> None:
        shift, fractions = data.draw(shifts), data.draw(report_lists)
        drawn = self._draw_jobs(data, lambda job: job.runs)
        other = None if data.draw(prefers_suitable) else self._draw_worker(data)
        for worker, worker_jobs in self._by_worker(drawn, other):
            allowed = [
                job
                for job in worker_jobs
                if self.model.owns(worker, job, max(1, job.attempt + shift))
            ]
            reports = []
            for job in worker_jobs:
                for tenths in fractions:
                    fraction = None if tenths is None else tenths / 10
                    output = f'"piece {len(job.outputs)}"' if tenths is None else None
                    reports.append(
                        AttemptReport(
                            key=AttemptKey(job.id, max(1, job.attempt + shift)),
                            progress=None if fraction is None else Progress(fraction=fraction),
                            output=output,
                        )
                    )
                    if job in allowed:
                        self.model.report(job, fraction=fraction, output=output)
            accepted = self.run(report(self.database, worker.id, *reports))
            assert accepted == {job.id for job in allowed}

    def _by_worker(
        self, drawn: Sequence[ModelJob], other: ModelWorker | None
    ) -> list[tuple[ModelWorker, list[ModelJob]]]:
        """Group jobs by the worker that writes to them: their last worker, or `other`."""
        grouped: dict[ModelWorker, list[ModelJob]] = {}
        for job in drawn:
            if (writer := other or job.worker) is not None:
                grouped.setdefault(writer, []).append(job)
        return list(grouped.items())

    # The scheduler. The test moves row times into the past.

    def promote(self, data: st.DataObject) -> None:
        limit = data.draw(limits)
        for job in self._draw_jobs(data, lambda job: job.state in sources(EventType.DUE)):
            if not job.pruned:
                self._set_times(job, "due_time = now() - interval '1 s'")
                job.due = True
        due = self.model.promotable()
        count = self._call_as_leader(data, promote_due, limit=limit)
        if count is None:
            return
        assert count == min(limit, len(due))
        now = self._read_jobs()
        for job in due:
            if now[job.id][0].seq > len(job.events):
                self.model.promote(job)

    def recover(self, data: st.DataObject) -> None:
        limit, max_losses = data.draw(limits), data.draw(st.integers(0, 2))
        if data.draw(flags):
            self._let_lease_lapse(self._draw_worker(data))
        lost = {job.id: job for job in self.model.lost()}
        recovered = self._call_as_leader(data, recover_lost, limit=limit, max_losses=max_losses)
        if recovered is None:
            return
        assert len(recovered) == min(limit, len(lost))
        for job_id, state in recovered:
            assert state == self.model.lose(lost.pop(job_id), max_losses=max_losses)

    def expire(self, data: st.DataObject) -> None:
        limit, grace = data.draw(limits), data.draw(flags)
        for job in self._draw_jobs(data, lambda job: job.has_deadline and not job.ended):
            if job.has_deadline and not job.pruned:
                self._set_times(job, "deadline = now() - interval '10 min'")
                job.overdue = True
        overdue = {job.id: job for job in self.model.overdue(grace=grace)}
        running_grace = _LONG_DELAY if grace else timedelta()
        expired = self._call_as_leader(
            data, expire_overdue, limit=limit, running_grace=running_grace
        )
        if expired is None:
            return
        assert len(expired) == min(limit, len(overdue))
        for job_id in expired:
            self.model.expire(overdue.pop(job_id))

    def prune(self, data: st.DataObject) -> None:
        limit = data.draw(limits)
        for job in self._draw_jobs(data, lambda job: job.ended, most=2):
            if job.ended:
                self._set_times(job, "end_time = now() - interval '2 h'")
                job.ended_long_ago = True
        old = self.model.prunable()
        pruned = self.run(
            prune(self.database, older_than=_LONG_DELAY, held_for=_LONG_DELAY, limit=limit)
        )
        # Each state is pruned separately.
        by_state = Counter(job.state for job in old)
        assert pruned.jobs == sum(min(limit, count) for count in by_state.values())
        remaining = self._read_jobs()
        absent = [job for job in old if job.id not in remaining]
        assert pruned.events == sum(len(job.events) for job in absent)
        self.model.prune(absent)

    def _call_as_leader(self, data: st.DataObject, call: Callable[..., Any], **options: Any) -> Any:
        """Call a function as the leader; return its result, or None if the term was over."""
        if data.draw(prefers_suitable):
            return self._in_transaction(
                lambda connection: call(connection, term=self.term, **options)
            )
        with pytest.raises(StaleTerm):
            self._in_transaction(lambda connection: call(connection, term=self.term - 1, **options))
        return None

    def _set_times(self, job: ModelJob, assignment: str) -> None:
        self.run(set_column(self.database, job.id, assignment))
        # The test made this change, so the invariant must not attribute it to the store.
        self.seen[job.id] = self._read_jobs()[job.id]

    # The invariants after each step.

    @invariant()
    def store_and_model_agree(self) -> None:
        now = self._read_jobs()
        stored = [job for job in self.model.jobs if not job.pruned]
        assert set(now) == {job.id for job in stored}
        for job in stored:
            row, events = now[job.id]
            before, its_events = self.seen.get(job.id, (row, []))
            if row.seq == before.seq:
                # Rejected calls and calls for other jobs must not change this job.
                assert row == before
            if row.seq != before.seq or job.id not in self.seen:
                self._compare_job(job, row, events)
                assert events[: len(its_events)] == its_events
        self.seen = now
        self.run(self._compare_others(stored))

    def _compare_job(self, job: ModelJob, row: Job, events: Sequence[JobEvent]) -> None:
        assert [(event.type, event.state, event.attempt) for event in events] == job.events
        assert_legal(row, events)
        assert row.state is job.state
        assert row.retries_used == job.retries_used
        assert (row.cancel_request_time is not None) == job.cancel_requested
        assert row.worker_id == (job.worker and job.worker.id)
        assert (row.deadline is not None) == job.has_deadline
        assert (row.end_time is not None) == job.ended
        assert (row.progress and row.progress.fraction) == job.fraction
        assert [event.output for event in events if event.output is not None] == job.outputs
        started = [event.worker_id for event in events if event.type is EventType.STARTED]
        assert started[-1:] == ([job.worker.id] if job.worker else [])

    async def _compare_others(self, stored: Sequence[ModelJob]) -> None:
        """Compare the results of the store's other read functions for these jobs."""
        async with self.database.statement() as connection:
            rows = await connection.execute(
                text("SELECT id, worker_losses, interruptions FROM jobs")
            )
            assert {(row.id, row.worker_losses, row.interruptions) for row in rows} == {
                (job.id, job.losses, job.interruptions) for job in stored
            }
            batches = await connection.scalars(text("SELECT id FROM batches"))
            assert set(batches) == {job.batch.id for job in stored if job.batch}
            events = await connection.scalar(text("SELECT count(*) FROM job_events"))
            assert events == sum(len(job.events) for job in stored)
            for worker in self.model.workers[-3:]:
                running = [job for job in stored if job.runs and job.worker is worker]
                attempts = await held_attempts(connection, worker_id=worker.id)
                assert set(attempts) == {(job.id, job.attempt) for job in running}
                requests = await cancel_requests(connection, worker_id=worker.id)
                assert set(requests) == {
                    (job.id, job.attempt) for job in running if job.cancel_requested
                }
            for job in stored[-1:]:
                page = await list_output(
                    connection, tenant=DEFAULT_TENANT, job_id=job.id, after_seq=0, limit=1000
                )
                assert [event.output for event in page.events] == job.outputs

    def _read_jobs(self) -> dict[object, tuple[Job, list[JobEvent]]]:
        async def read() -> dict[object, tuple[Job, list[JobEvent]]]:
            async with self.database.transaction() as connection:
                candidates = await list_jobs(
                    connection,
                    tenant=DEFAULT_TENANT,
                    query=(),
                    limit=1000,
                    before=None,
                    full=True,
                )
            now: dict[object, tuple[Job, list[JobEvent]]] = {}
            for job in candidates:
                known = self.seen.get(job.id)
                unchanged = known is not None and known[0].seq == job.seq
                events = known[1] if known and unchanged else await history(self.database, job.id)
                now[job.id] = (job, events)
            return now

        read_all: dict[object, tuple[Job, list[JobEvent]]] = self.run(read())
        return read_all

    def _in_transaction(self, call: Callable[[Any], Coroutine[Any, Any, T]]) -> Any:
        async def execute() -> T:
            async with self.database.transaction() as connection:
                return await call(connection)

        return self.run(execute())


_RETRY = EventType.RETRY_SCHEDULED


def _schedule_and_deadline(*, later: bool, deadline: bool) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "schedule_time": now + _LONG_DELAY if later else None,
        "deadline": now + 24 * _LONG_DELAY if deadline else None,
    }


def _hypothesis_settings(examples: int) -> settings:
    return settings(
        max_examples=examples or 60,
        stateful_step_count=30,
        derandomize=not examples,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


async def _empty_tables(database: Database) -> None:
    async with database.statement() as connection:
        await connection.execute(_TRUNCATE)


# The tables that transitions write.
_TRUNCATE = text(
    "TRUNCATE jobs, job_events, batches, pruned_jobs, event_log, workers, worker_handlers, "
    "leadership, subscriptions"
)


# The timeout suffices for all examples and for the shrinking of a failure.
@pytest.mark.timeout(600 + 2 * int(os.environ.get(_EXAMPLES, "0")))
def test_store_agrees_with_the_model(settings: Settings) -> None:
    with asyncio.Runner() as runner:
        database = Database(settings, application="test")

        class Machine(LifecycleMachine):
            pass

        Machine.database = database
        Machine.run = staticmethod(runner.run)
        Machine.covered_rows = Counter()
        try:
            profile = _hypothesis_settings(int(os.environ.get(_EXAMPLES, "0")))
            run_state_machine_as_test(Machine, settings=profile)
            for number in range(_MORE_SEEDS):
                if set(Machine.covered_rows) == ROWS:
                    break
                few = _hypothesis_settings(_EXAMPLES_PER_SEED)
                run_state_machine_as_test(seed(number)(Machine), settings=few)
        finally:
            sys.stdout.write(rows_report(Machine.covered_rows))
            runner.run(database.close())
        assert set(Machine.covered_rows) == ROWS
