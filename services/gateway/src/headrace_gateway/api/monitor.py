"""The use cases of people who watch workers, queues and rates."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from headrace_core.domain.access import PrincipalKind, Right, Scope
from headrace_core.domain.errors import PageTokenInvalid, PermissionDenied, Violation
from headrace_core.domain.ids import WorkerId
from headrace_core.domain.lifecycle import JobState
from headrace_core.domain.limits import NAME_RULE, is_name
from headrace_core.domain.monitor import HistoryPoint, Overview, QueueStatus, WorkerStatus
from headrace_core.domain.pool import Lane, Pool, serves_queue, serves_tenant
from headrace_core.domain.stats import Stats
from headrace_core.store.history import read_history
from headrace_core.store.jobs.read import read_stats
from headrace_core.store.jobs.waiting import live_pools
from headrace_core.store.monitor import list_workers
from headrace_core.store.sql.database import Database
from headrace_core.store.sql.installation import Installation
from headrace_gateway.api.jobs import COUNT_TIMEOUT
from headrace_gateway.api.pages import Page, fill_page, split_page
from headrace_gateway.api.validation import Violations, check_idle_interval, page_limit
from headrace_gateway.calls.call import Call
from headrace_gateway.streams import Watch
from headrace_gateway.tokens import decode_name_token, encode_name_token

# The minimum, default and maximum time between two overviews, in seconds.
_MIN_INTERVAL: Final = 0.1
_DEFAULT_INTERVAL: Final = 0.2
_MAX_INTERVAL: Final = 60.0
# The minimum, default and maximum range of a history, and the units of its steps.
_MINUTE: Final = timedelta(minutes=1)
_DEFAULT_RANGE: Final = timedelta(hours=1)
_MAX_RANGE: Final = timedelta(days=31)
# The number of points that the default step does not exceed, and the maximum number of points.
_DEFAULT_POINTS: Final = 180
_MAX_POINTS: Final = 1_500
# The time limit of a statement that reads a history, in seconds.
_HISTORY_TIMEOUT: Final = 30.0


class History(NamedTuple):
    """The points of a history, and the length of their periods."""

    points: Sequence[HistoryPoint]
    step: timedelta


class Monitor:
    """Shows workers, queues and rates.

    Methods report `violations`, which the transport found in the request, together with their own.

    Args:
        database: stores workers and jobs.
        installation: signs page tokens.
        watch: the streams of this gateway.
    """

    def __init__(self, *, database: Database, installation: Installation, watch: Watch) -> None:
        self._database = database
        self._installation = installation
        self._watch = watch

    async def list_workers(
        self,
        call: Call,
        page: Page[WorkerStatus],
        *,
        size: int = 0,
        token: str = "",
        violations: Sequence[Violation] = (),
    ) -> str:
        """Fill a page with the workers that serve the tenant, by id.

        Args:
            call: the context of the request.
            page: receives the workers.
            size: the maximum number of workers on the page; 0 for the default.
            token: the page token; empty for the first page.
            violations: see the class.

        Returns:
            The token of the next page; empty after the last page.

        Raises:
            InvalidRequest: the size or the token is invalid.
            PermissionDenied: see `monitored_scope`.
        """
        found = Violations(violations)
        limit = page_limit(size, found)
        found.check()
        scope = monitored_scope(call)
        sees_tenants = Right.TENANTS_MANAGE in call.principal.rights

        async def read(after: WorkerId | None, wanted: int) -> tuple[Sequence[WorkerStatus], bool]:
            workers = await list_workers(
                conn,
                tenant=call.tenant,
                queues=scope.queues,
                types=scope.types,
                after=after,
                limit=wanted + 1,
            )
            shown = [
                replace(
                    worker,
                    tenants=worker.tenants if sees_tenants else frozenset((call.tenant,)),
                    queues=worker.queues & scope.queues if scope.queues else worker.queues,
                )
                for worker in workers
            ]
            return split_page(shown, wanted)

        after = decode_name_token(self._installation, call.tenant, token, of="workers")
        async with self._database.transaction() as conn:
            last = await fill_page(page, read, key=_id_of, after=_worker_id(after), size=limit)
        if last is None:
            return ""
        return encode_name_token(self._installation, call.tenant, str(last), of="workers")

    async def list_queues(
        self,
        call: Call,
        page: Page[QueueStatus],
        *,
        size: int = 0,
        token: str = "",
        violations: Sequence[Violation] = (),
    ) -> tuple[str, datetime]:
        """Fill a page with the queues that have jobs or that workers name, by name.

        Args:
            call: the context of the request.
            page: receives the queues.
            size: the maximum number of queues on the page; 0 for the default.
            token: the page token; empty for the first page.
            violations: see the class.

        Returns:
            The token of the next page, empty after the last page; and the time of the measurement.

        Raises:
            InvalidRequest: the size or the token is invalid.
            PermissionDenied: see `monitored_scope`.
        """
        found = Violations(violations)
        limit = page_limit(size, found)
        found.check()
        scope = monitored_scope(call)
        after = decode_name_token(self._installation, call.tenant, token, of="queues")
        async with self._database.snapshot(statement_timeout=COUNT_TIMEOUT) as conn:
            stats = await read_stats(conn, tenant=call.tenant, query=scope.query())
            pools = await live_pools(conn)
        queues = queue_statuses(stats, pools, call.tenant, scope)

        async def read(after: str, wanted: int) -> tuple[Sequence[QueueStatus], bool]:
            rest = [queue for queue in queues if queue.queue > after]
            return split_page(rest, wanted)

        last = await fill_page(page, read, key=_name_of, after=after, size=limit)
        if not last:
            return "", stats.time
        return encode_name_token(self._installation, call.tenant, last, of="queues"), stats.time

    def watch_overview(
        self,
        call: Call,
        *,
        interval: float | None,
        idle: float | None,
        violations: Sequence[Violation] = (),
    ) -> AsyncGenerator[Overview | None, None]:
        """Return the stream of overviews of the tenant; None is an idle mark.

        The caller must close the generator if it stops early.

        Args:
            call: the context of the request.
            interval: the minimum time between two overviews, in seconds; None for the default.
            idle: the longest time without an item, in seconds; None for the default.
            violations: see the class.

        Raises:
            InvalidRequest: an interval is out of range.
            PermissionDenied: see `monitored_scope`.
        """
        found = Violations(violations)
        if interval is not None and not _MIN_INTERVAL <= interval <= _MAX_INTERVAL:
            found.note("interval", f"must be {_MIN_INTERVAL} s to {_MAX_INTERVAL:.0f} s")
        check_idle_interval(idle, found)
        found.check()
        return self._watch.watch_overview(
            call.tenant,
            monitored_scope(call),
            interval=_DEFAULT_INTERVAL if interval is None else interval,
            idle=idle,
        )

    async def history(
        self,
        call: Call,
        *,
        period: timedelta | None = None,
        step: timedelta | None = None,
        queue: str = "",
        job_type: str = "",
        violations: Sequence[Violation] = (),
    ) -> History:
        """Return the history of the tenant up to now.

        Args:
            call: the context of the request.
            period: the time to cover; None for an hour.
            step: the length of the period of a point; None to choose it.
            queue: only jobs of this queue; empty for all queues.
            job_type: only jobs of this type; empty for all types.
            violations: see the class.

        Raises:
            InvalidRequest: an argument is out of range.
            PermissionDenied: see `monitored_scope`, or the queue or type is outside of the scope.
        """
        found = Violations(violations)
        period = _DEFAULT_RANGE if period is None else period
        if not _MINUTE <= period <= _MAX_RANGE:
            found.note("range", "must be 1 minute to 31 days")
        if step is None:
            step = _MINUTE * max(1, -(-period // (_MINUTE * _DEFAULT_POINTS)))
        elif step < _MINUTE or step % _MINUTE:
            found.note("step", "must be a whole number of minutes")
        elif period > step * _MAX_POINTS:
            found.note("step", f"the range would have more than {_MAX_POINTS} points")
        for field, name in (("queue", queue), ("type", job_type)):
            if name and not is_name(name):
                found.note(field, NAME_RULE)
        found.check()
        scope = monitored_scope(call)
        queues, types = (
            _narrow("queue", queue, scope.queues),
            _narrow("type", job_type, scope.types),
        )
        async with self._database.snapshot(statement_timeout=_HISTORY_TIMEOUT) as conn:
            points = await read_history(
                conn,
                tenant=call.tenant,
                queues=queues,
                types=types,
                points=max(1, -(-period // step)),
                step=step,
            )
        return History(points, step)


def _narrow(kind: str, name: str, allowed: frozenset[str]) -> frozenset[str]:
    """Return the names that a request selects within a scope; empty for all."""
    if not name:
        return allowed
    if allowed and name not in allowed:
        raise PermissionDenied(f"{kind}:{name}")
    return frozenset((name,))


def monitored_scope(call: Call) -> Scope:
    """Return the scope of a caller, which may restrict it to queues and types.

    Raises:
        PermissionDenied: the caller has a watch token, or its scope has labels, a batch or jobs.
            Counts and workers exist only for queues and types.
    """
    scope = call.principal.scope
    if (
        call.principal.kind is PrincipalKind.WATCH_TOKEN
        or scope.labels
        or scope.batch_id is not None
        or scope.job_ids
    ):
        raise PermissionDenied("all jobs of its queues and types")
    return scope


def queue_statuses(
    stats: Stats, pools: Sequence[Pool], tenant: str, scope: Scope
) -> list[QueueStatus]:
    """Return the queues with jobs, and those that live pools name, by name.

    Args:
        stats: the jobs within the scope.
        pools: the live pools.
        tenant: the tenant.
        scope: the queues and types that the caller may see.
    """
    pools = [
        pool
        for pool in pools
        if serves_tenant(pool.tenants, tenant)
        and (not scope.types or not scope.types.isdisjoint(pool.types))
    ]
    states = stats.by_queue()
    named = {queue for pool in pools for queue in pool.queues}
    if scope.queues:
        named &= scope.queues
    lanes: dict[str, list[Lane]] = {}
    for count in stats.counts:
        if count.state is JobState.QUEUED:
            lanes.setdefault(count.queue, []).append(Lane(tenant, count.queue, count.type))
    return [
        _queue_status(queue, states.get(queue, {}), lanes.get(queue, ()), stats, pools)
        for queue in sorted(named | states.keys())
    ]


def _queue_status(
    queue: str,
    states: Mapping[JobState, int],
    lanes: Sequence[Lane],
    stats: Stats,
    pools: Sequence[Pool],
) -> QueueStatus:
    serving = [
        pool
        for pool in pools
        if (any(map(pool.serves, lanes)) if lanes else serves_queue(pool.queues, queue))
    ]
    return QueueStatus(
        queue=queue,
        states=states,
        oldest_queue_time=stats.oldest.get(queue),
        workers=sum(pool.workers for pool in serving),
        slots=sum(pool.slots for pool in serving),
    )


def _worker_id(text: str) -> WorkerId | None:
    try:
        return WorkerId(UUID(text)) if text else None
    except ValueError:
        raise PageTokenInvalid from None


def _id_of(worker: WorkerStatus) -> WorkerId | None:
    return worker.id


def _name_of(queue: QueueStatus) -> str:
    return queue.queue
