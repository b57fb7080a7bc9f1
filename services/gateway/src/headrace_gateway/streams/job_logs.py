"""Streams of the log lines of jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Final, NamedTuple

from headrace_core.domain.ids import JobId
from headrace_core.domain.job_log import LogPosition, StoredLine
from headrace_core.domain.lifecycle import TERMINAL
from headrace_core.runtime.loop import Loop, Wake
from headrace_core.store.jobs.logs import find_new_logs, list_logs
from headrace_core.store.jobs.read import get_job
from headrace_core.store.sql.database import Database
from headrace_core.wake import Topic
from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.history import History
from headrace_gateway.streams.many import Mark
from headrace_gateway.streams.messages import next_mark
from headrace_gateway.streams.routing import Mailbox, Routes
from headrace_gateway.streams.tail import Tail
from headrace_gateway.streams.timing import DEFAULT, Timing

# The maximum number of lines in a message. A line has at most a few kilobytes.
_MAX_LINES: Final = 200
# The maximum number of jobs in one query.
_MAX_JOBS: Final = 1000


class LogUpdate(NamedTuple):
    """The lines or the mark of one message."""

    lines: Sequence[StoredLine]
    mark: Mark


class _Follower:
    """A stream that waits for new lines.

    Attributes:
        job_id: the job.
        position: the position of the last line that the stream has read.
        is_current: False once the job has newer lines, or may have ended.
    """

    __slots__ = ("_mailbox", "is_current", "job_id", "position")

    def __init__(self, job_id: JobId, position: LogPosition, mailbox: Mailbox) -> None:
        self.job_id = job_id
        self.position = position
        self.is_current = False
        self._mailbox = mailbox

    def notify(self) -> None:
        """Make the stream read again."""
        self.is_current = False
        self._mailbox.wake()


class LogTail(Loop):
    """Finds the followed jobs that have new lines, with one query for all streams.

    Args:
        database: stores the lines.
        wake: the wake-ups of this loop.
        timing: the wait without a wake-up.
    """

    name = "log tail"
    topics = (Topic.LOGS,)
    # Lines that arrive within this time, in seconds, are read together.
    pause = 0.1

    def __init__(self, *, database: Database, wake: Wake, timing: Timing = DEFAULT) -> None:
        self._database = database
        self._wake = wake
        self._timing = timing
        self._followers: dict[_Follower, None] = {}

    @contextmanager
    def follow(self, job_id: JobId, position: LogPosition, mailbox: Mailbox) -> Iterator[_Follower]:
        """Yield a follower, whose mailbox wakes its stream."""
        follower = _Follower(job_id, position, mailbox)
        self._followers[follower] = None
        if len(self._followers) == 1:
            # The loop may be in the long wait of a run without followers.
            self._wake.set()
        try:
            yield follower
        finally:
            del self._followers[follower]

    async def run_once(self) -> float:
        """Wake the streams whose jobs have new lines.

        Returns:
            Seconds until the next run without a wake-up.

        Raises:
            Unavailable: PostgreSQL cannot be read. The next run finds the same lines.
        """
        waiting = iter([follower for follower in self._followers if follower.is_current])
        while group := list(islice(waiting, _MAX_JOBS)):
            # Several streams can follow one job from different positions.
            positions: dict[JobId, LogPosition] = {}
            for follower in group:
                position = positions.get(follower.job_id, follower.position)
                positions[follower.job_id] = min(position, follower.position)
            async with self._database.statement() as conn:
                changed = frozenset(await find_new_logs(conn, followed=positions))
            for follower in group:
                if follower.job_id in changed:
                    follower.notify()
        return self._timing.interval[1] if self._followers else self._timing.log_rest


class LogStream:
    """Follows the log of one job until the job has ended.

    The worker stores the last lines of an attempt in the transaction that ends it, so a stream that
    has read the terminal state and then finds no more lines has sent them all.

    Args:
        tenant: the tenant of the job.
        job_id: the job.
        after: the position of the last line that the client has seen.
        tail: routes the events of the job, among them its end.
        log_tail: finds new lines.
        routes: opens the mailbox.
        history: reads the lines.
        gauges: counts resumed streams.
        idle: longest time without a message, in seconds.
    """

    def __init__(
        self,
        *,
        tenant: str,
        job_id: JobId,
        after: LogPosition,
        tail: Tail,
        log_tail: LogTail,
        routes: Routes,
        history: History,
        gauges: Gauges,
        idle: float,
    ) -> None:
        self._tenant = tenant
        self._job_id = job_id
        self._after = after
        self._tail = tail
        self._log_tail = log_tail
        self._routes = routes
        self._history = history
        self._gauges = gauges
        self._idle = idle
        self._clock = asyncio.get_running_loop().time
        # True once the job has ended and all its lines were read.
        self._is_complete = False

    async def run(self) -> AsyncGenerator[LogUpdate, None]:
        """Yield lines and marks to send.

        Raises:
            JobNotFound: the tenant has no such job.
            Unavailable: the lines cannot be read.
            ShuttingDown: the gateway is shutting down.
        """
        with (
            self._routes.open_for_job(self._job_id) as mailbox,
            self._log_tail.follow(self._job_id, self._after, mailbox) as follower,
        ):
            # The end of the job arrives in the mailbox, so open it before reading the state.
            await self._tail.wait_until_ready()
            if self._after.attempt:
                self._gauges.resumes += 1
            # The first mark is due as soon as all past lines were sent.
            mark, mark_due = Mark.CAUGHT_UP, -math.inf
            while not self._is_complete:
                if not follower.is_current:
                    if lines := await self._read(mailbox, follower):
                        yield LogUpdate(lines, Mark.EVENTS)
                        if mark is Mark.IDLE:
                            mark_due = next_mark(self._clock(), self._idle)
                elif self._clock() >= mark_due:
                    yield LogUpdate((), mark)
                    mark, mark_due = Mark.IDLE, next_mark(self._clock(), self._idle)
                else:
                    await self._wait(mailbox, follower, mark_due)

    async def _read(self, mailbox: Mailbox, follower: _Follower) -> Sequence[StoredLine]:
        """Return the next lines, and update the follower."""
        mailbox.check()
        # A notification during the read makes the follower stale again.
        follower.is_current = True
        async with self._history.reading() as conn:
            # Read the state first: the lines of an ended job are then visible.
            job = await get_job(conn, tenant=self._tenant, job_id=self._job_id, full=False)
            page = await list_logs(
                conn, job_id=self._job_id, after=follower.position, limit=_MAX_LINES
            )
        self._is_complete = page.complete and job.state in TERMINAL
        if page.lines:
            follower.position = page.lines[-1].position
        if not page.complete:
            follower.is_current = False
        return page.lines

    async def _wait(self, mailbox: Mailbox, follower: _Follower, mark_due: float) -> None:
        """Wait until the follower is stale or a mark is due."""
        await mailbox.wait(max(0.0, mark_due - self._clock()))
        events = mailbox.take(_MAX_LINES)
        if mailbox.overflowed:
            mailbox.reopen()
            follower.is_current = False
        if any(event.state in TERMINAL for event in events):
            follower.is_current = False
        mailbox.oldest_dropped = None
