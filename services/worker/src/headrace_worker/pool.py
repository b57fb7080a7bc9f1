"""The pool of a worker, and the worker's database row."""

from __future__ import annotations

import hashlib
import os
import socket

from headrace_core.domain.ids import WorkerId, uuid7
from headrace_core.domain.pool import NewWorker, Pool
from headrace_core.runtime.settings import Settings
from headrace_worker.api.registry import Registry


def pool_of(settings: Settings, handlers: Registry) -> Pool:
    """Return the pool of all workers with the same types, queues and tenants."""
    types = frozenset(handler.spec.type for handler in handlers)
    queues = frozenset(settings.worker_queues)
    tenants = frozenset(settings.served_tenants)
    # Workers of an older version with the same single tenant are in the same pool.
    owner = next(iter(tenants)) if len(tenants) == 1 else sorted(tenants)
    parts = (owner, sorted(queues), sorted(types))
    return Pool(
        name=hashlib.sha256(repr(parts).encode()).hexdigest()[:16],
        tenants=tenants,
        queues=queues,
        types=types,
        workers=1,
        slots=settings.worker_slots,
        running=0,
    )


def describe_worker(pool: Pool, handlers: Registry) -> NewWorker:
    """Return the row of a worker that is about to register, with a new id."""
    return NewWorker(
        id=WorkerId(uuid7()),
        tenants=sorted(pool.tenants),
        name=f"{socket.gethostname()}:{os.getpid()}",
        pool=pool.name,
        queues=sorted(pool.queues),
        slots=pool.slots,
        handlers=[handler.spec for handler in handlers],
    )
