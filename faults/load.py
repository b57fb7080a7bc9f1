"""The load: jobs at a steady rate, and a history of all submits and their results."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from faults.evidence import Outcome, Submission
from faults.watchers import Watchers
from headrace import CallError, Client, JobSpec
from headrace._convert import to_spec

# After a failure with one of these codes, the job may still exist.
_UNKNOWN_OUTCOME_CODES = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"}
)
# The time for which a submit is retried, and the longest wait between two calls, in seconds.
_RETRY_PERIOD_S = 60.0
_MAX_WAIT_S = 2.0
# The share of single-job streams that use the client library.
_CLIENT_SHARE = 0.25

# The label of jobs from a burst.
BURST_LABEL = "burst"

QUEUES = ("default", "side")
SHARDS = 4

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The kinds of jobs, as shares from 0 to 1.

    Args:
        seconds: shortest and longest duration of a handler, in seconds.
        scheduled: jobs with a schedule time in the near future.
        failing: jobs that fail once or twice first.
        reporting: jobs that report progress and emit output.
        watched: jobs with their own stream.
        attached: jobs submitted and followed in one call.
        url: the URL that each job calls first; empty for no call.
    """

    seconds: tuple[float, float] = (0.02, 0.2)
    scheduled: float = 0.1
    failing: float = 0.1
    reporting: float = 0.1
    watched: float = 0.2
    attached: float = 0.05
    url: str = ""


class Load:
    """Submits jobs to the gateways until stopped.

    The load retries each submit itself, with the same idempotency key, so that the history
    contains the response to each call.

    Args:
        targets: addresses of the gateways.
        watchers: follows some of the jobs.
        rng: the source of all random decisions.
        rate: jobs per second.
        mix: the kinds of jobs.
        name: the prefix of every idempotency key.
    """

    def __init__(
        self,
        *,
        targets: Sequence[str],
        watchers: Watchers,
        rng: random.Random,
        rate: float,
        mix: Mix,
        name: str,
    ) -> None:
        self.history: list[Submission] = []
        self._clients = [
            Client([*targets[turn:], *targets[:turn]], retries=0) for turn in range(len(targets))
        ]
        self._watchers = watchers
        self._rng = rng
        self._rate = rate
        self._mix = mix
        self._name = name
        self._open: set[asyncio.Task[None]] = set()
        self._pace: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start submitting."""
        self._pace = asyncio.create_task(self._run(), name="load")

    async def stop(self) -> None:
        """Stop submitting, and wait until each submit has an outcome."""
        if self._pace is not None:
            self._pace.cancel()
            await asyncio.gather(self._pace, return_exceptions=True)
            self._pace = None
        while self._open:
            await asyncio.gather(*self._open)

    async def close(self) -> None:
        """Cancel the open submits and close the clients."""
        for task in (*self._open, *filter(None, [self._pace])):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due += self._rng.uniform(0.5, 1.5) / self._rate
            await asyncio.sleep(max(0.0, due - clock()))
            self._start_submit(self._mix)

    def burst(self, count: int, mix: Mix) -> None:
        """Submit `count` more jobs at once."""
        for _ in range(count):
            self._start_submit(mix, labels={BURST_LABEL: str(count)})

    def _start_submit(self, mix: Mix, labels: Mapping[str, str] = _NO_LABELS) -> None:
        submission = Submission(request_id=f"{self._name}-{len(self.history)}", invoked=time.time())
        self.history.append(submission)
        attached = self._rng.random() < mix.attached
        watched = self._rng.random() < mix.watched
        client = self._clients[len(self.history) % len(self._clients)]
        spec = self._spec(mix, labels)
        work = (
            self._attach(submission, spec)
            if attached
            else self._submit(submission, spec, client, watched=watched)
        )
        task = asyncio.create_task(work)
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    def _spec(self, mix: Mix, labels: Mapping[str, str]) -> JobSpec:
        rng = self._rng
        payload: dict[str, Any] = {"seconds": round(rng.uniform(*mix.seconds), 3)}
        if rng.random() < mix.failing:
            payload["failures"] = rng.randint(1, 2)
        if rng.random() < mix.reporting:
            payload |= {"reports": rng.randint(1, 3), "chunks": rng.randint(1, 3)}
        scheduled = rng.random() < mix.scheduled
        # Use a time instead of a delay, because a repeated submit must have the same content.
        soon = timedelta(seconds=rng.uniform(0.5, 3)) if scheduled else None
        if mix.url:
            payload["url"] = mix.url
        return JobSpec(
            "call" if mix.url else "work",
            payload,
            queue=rng.choice(QUEUES),
            labels={"load": self._name, "shard": str(rng.randrange(SHARDS)), **labels},
            schedule_time=datetime.now(UTC) + soon if soon else None,
        )

    async def _submit(
        self, submission: Submission, spec: JobSpec, client: Client, *, watched: bool
    ) -> None:
        wait = 0.1
        while True:
            try:
                handle = await client.submit(
                    spec.type,
                    spec.payload,
                    request_id=submission.request_id,
                    queue=spec.queue,
                    labels=spec.labels,
                    schedule_time=spec.schedule_time,
                )
            except CallError as error:
                submission.codes.append(error.refusal.code)
                submission.responded = time.time()
                if error.refusal.code not in _UNKNOWN_OUTCOME_CODES:
                    # An earlier call may still have submitted the job.
                    unknown_before = any(
                        code in _UNKNOWN_OUTCOME_CODES for code in submission.codes
                    )
                    submission.outcome = Outcome.UNKNOWN if unknown_before else Outcome.FAILED
                    return
                submission.outcome = Outcome.UNKNOWN
                if time.time() - submission.invoked > _RETRY_PERIOD_S:
                    return
                await asyncio.sleep(random.uniform(wait / 2, wait))
                wait = min(_MAX_WAIT_S, wait * 2)
                continue
            submission.responded = time.time()
            submission.outcome, submission.job_id = Outcome.OK, handle.id
            if watched and self._rng.random() < _CLIENT_SHARE:
                self._watchers.follow_job_with_client(handle.id)
            elif watched:
                self._watchers.follow_job(handle.id)
            return

    async def _attach(self, submission: Submission, spec: JobSpec) -> None:
        follower = self._watchers.submit_and_follow(to_spec(spec), submission.request_id)
        submission.outcome = Outcome.UNKNOWN
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(_RETRY_PERIOD_S):
                submission.job_id = await asyncio.shield(follower.job)
                submission.outcome = Outcome.OK
        submission.codes += follower.log.codes
        submission.responded = time.time()
