"""Workers, their pools, and the lanes of waiting jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from headrace_core.domain.attempt import AttemptKey
from headrace_core.domain.handler import HandlerSpec
from headrace_core.domain.ids import WorkerId


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWorker:
    """A worker to register. Its id is new at each start.

    Empty `queues` means all queues, and empty `tenants` means all tenants.
    """

    id: WorkerId
    tenants: Sequence[str]
    name: str
    pool: str
    queues: Sequence[str]
    slots: int
    handlers: Sequence[HandlerSpec]


class Lane(NamedTuple):
    """The QUEUED jobs with the same tenant, queue and type. The same workers can run them."""

    tenant: str
    queue: str
    type: str


class ReadyJob(NamedTuple):
    """The next attempt of a QUEUED job. Tuples sort by rank, which is the delivery order."""

    rank: float
    key: AttemptKey
    lane: Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The next attempts of a lane, in delivery order.

    Attributes:
        lane: the lane of all these attempts.
        ranks: the rank of each attempt.
        keys: the attempts.
        whole: whether the lane has no other jobs.
    """

    lane: Lane
    ranks: Sequence[float]
    keys: Sequence[AttemptKey]
    whole: bool

    def __iter__(self) -> Iterator[ReadyJob]:
        for rank, key in zip(self.ranks, self.keys, strict=True):
            yield ReadyJob(rank, key, self.lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Live workers that run the same types from the same queues of the same tenants.

    Attributes:
        name: the name of its arq queue.
        tenants: the tenants; empty for all tenants.
        queues: the queues; empty for all queues.
        types: the job types.
        workers: the number of workers.
        slots: the slots of all workers.
        running: the number of attempts in these slots.
    """

    name: str
    tenants: frozenset[str]
    queues: frozenset[str]
    types: frozenset[str]
    workers: int
    slots: int
    running: int

    def serves(self, lane: Lane) -> bool:
        """Return whether the workers can run the jobs of a lane."""
        return (
            serves_tenant(self.tenants, lane.tenant)
            and lane.type in self.types
            and serves_queue(self.queues, lane.queue)
        )


def serves_tenant(tenants: Collection[str], tenant: str) -> bool:
    """Return whether a worker with these `tenants` serves `tenant`."""
    return not tenants or tenant in tenants


def serves_queue(queues: Collection[str], queue: str) -> bool:
    """Return whether a worker with these `queues` serves `queue`."""
    return not queues or queue in queues


@dataclass(frozen=True, slots=True)
class ServedQueues:
    """The known queues that live workers serve. Supports `"default" in served`.

    Args:
        queues: the distinct queue sets of live workers; an empty set means all queues.
        known: the queues that workers name, and the queues of stored jobs.
        waiting: for each queue with QUEUED jobs, whether a live worker runs a type of these jobs.
    """

    queues: frozenset[frozenset[str]] = frozenset()
    known: frozenset[str] = frozenset()
    waiting: Mapping[str, bool] = field(default_factory=dict)

    def __contains__(self, queue: object) -> bool:
        """Return whether a queue is known and served."""
        if not isinstance(queue, str) or queue not in self.known:
            return False
        if queue in self.waiting:
            return self.waiting[queue]
        return any(serves_queue(queues, queue) for queues in self.queues)
