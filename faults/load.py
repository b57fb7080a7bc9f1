"""The load: jobs at a steady rate, and a history of what became of each submit."""

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

# The answers after which a job may be there all the same.
_UNKNOWN = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"})
# How long a submit is tried again, and how long the wait between two attempts grows, in seconds.
_PATIENCE_S = 60.0
_LONGEST_WAIT_S = 2.0
# How many of the streams of single jobs go through the client.
_CLIENTS_SHARE = 0.25

# The label of what came at once.
BURST = "burst"

QUEUES = ("default", "side")
SHARDS = 4

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What the jobs are, in shares of 0 to 1.

    Args:
        seconds: bounds of how long a handler takes.
        later: have a time in the near future.
        failing: fail once or twice first.
        telling: report progress and emit output.
        watched: are followed by a stream of their own.
        attached: are submitted and followed in one call.
        calls: where each job calls over HTTP before it does anything else; empty: nowhere.
    """

    seconds: tuple[float, float] = (0.02, 0.2)
    later: float = 0.1
    failing: float = 0.1
    telling: float = 0.1
    watched: float = 0.2
    attached: float = 0.05
    calls: str = ""


class Load:
    """Submits jobs until it is stopped, at any number of gateways.

    Each attempt of a submit is one call, so that the history has what a gateway answered; an
    attempt whose outcome is unknown is repeated under the same key, as clients do.

    Args:
        targets: the gateways.
        watchers: follow some of the jobs.
        chance: decides everything.
        rate: jobs per second.
        mix: what they are.
        name: stands in every key.
    """

    def __init__(
        self,
        *,
        targets: Sequence[str],
        watchers: Watchers,
        chance: random.Random,
        rate: float,
        mix: Mix,
        name: str,
    ) -> None:
        self.history: list[Submission] = []
        self._clients = [
            Client([*targets[turn:], *targets[:turn]], retries=0) for turn in range(len(targets))
        ]
        self._watchers = watchers
        self._chance = chance
        self._rate = rate
        self._mix = mix
        self._name = name
        self._open: set[asyncio.Task[None]] = set()
        self._pace: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._pace = asyncio.create_task(self._run(), name="load")

    async def stop(self) -> None:
        """Submits no more, and waits until each submit has its outcome."""
        if self._pace is not None:
            self._pace.cancel()
            await asyncio.gather(self._pace, return_exceptions=True)
            self._pace = None
        while self._open:
            await asyncio.gather(*self._open)

    async def close(self) -> None:
        """Breaks off what is left, and hangs up."""
        for task in (*self._open, *filter(None, [self._pace])):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients))

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due += self._chance.uniform(0.5, 1.5) / self._rate
            await asyncio.sleep(max(0.0, due - clock()))
            self._begin(self._mix)

    def burst(self, count: int, mix: Mix) -> None:
        """Submits so many jobs at once, beside the others."""
        for _ in range(count):
            self._begin(mix, labels={BURST: str(count)})

    def _begin(self, mix: Mix, labels: Mapping[str, str] = _NO_LABELS) -> None:
        """Submits a job."""
        submission = Submission(request_id=f"{self._name}-{len(self.history)}", invoked=time.time())
        self.history.append(submission)
        attached = self._chance.random() < mix.attached
        watched = self._chance.random() < mix.watched
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
        chance = self._chance
        payload: dict[str, Any] = {"seconds": round(chance.uniform(*mix.seconds), 3)}
        if chance.random() < mix.failing:
            payload["failures"] = chance.randint(1, 2)
        if chance.random() < mix.telling:
            payload |= {"reports": chance.randint(1, 3), "chunks": chance.randint(1, 3)}
        later = chance.random() < mix.later
        # A time, not a delay, since what is repeated under a key must be the same.
        soon = timedelta(seconds=chance.uniform(0.5, 3)) if later else None
        if mix.calls:
            payload["url"] = mix.calls
        return JobSpec(
            "call" if mix.calls else "work",
            payload,
            queue=chance.choice(QUEUES),
            labels={"load": self._name, "shard": str(chance.randrange(SHARDS)), **labels},
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
                submission.answered = time.time()
                if error.refusal.code not in _UNKNOWN:
                    # A refusal says nothing of the attempts before it.
                    before = any(code in _UNKNOWN for code in submission.codes)
                    submission.outcome = Outcome.UNKNOWN if before else Outcome.FAILED
                    return
                submission.outcome = Outcome.UNKNOWN
                if time.time() - submission.invoked > _PATIENCE_S:
                    return
                await asyncio.sleep(random.uniform(wait / 2, wait))
                wait = min(_LONGEST_WAIT_S, wait * 2)
                continue
            submission.answered = time.time()
            submission.outcome, submission.job_id = Outcome.OK, handle.id
            if watched and self._chance.random() < _CLIENTS_SHARE:
                self._watchers.follow_job_with_client(handle.id)
            elif watched:
                self._watchers.follow_job(handle.id)
            return

    async def _attach(self, submission: Submission, spec: JobSpec) -> None:
        follower = self._watchers.submit_and_follow(to_spec(spec), submission.request_id)
        submission.outcome = Outcome.UNKNOWN
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(_PATIENCE_S):
                submission.job_id = await asyncio.shield(follower.job)
                submission.outcome = Outcome.OK
        submission.codes += follower.log.codes
        submission.answered = time.time()
