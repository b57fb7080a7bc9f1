"""A filter, compiled: a function that tells whether an event matches, and where to look for it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Final

from headrace_core.domain.job import JobEvent
from headrace_core.domain.query import JobFilter

Predicate = Callable[[JobEvent], bool]

# What a route is found by: a kind and its values.
Key = tuple[Hashable, ...]


def compile_filter(tenant: str, job_filter: JobFilter) -> Predicate:
    """Tells whether an event is the tenant's and matches every field of the filter that is set."""
    checks: list[Predicate] = [lambda event: event.tenant == tenant]
    if job_ids := job_filter.job_ids:
        checks.append(lambda event: event.job_id in job_ids)
    if batch_id := job_filter.batch_id:
        checks.append(lambda event: event.batch_id == batch_id)
    if queues := job_filter.queues:
        checks.append(lambda event: event.queue in queues)
    if types := job_filter.types:
        checks.append(lambda event: event.job_type in types)
    if states := job_filter.states:
        checks.append(lambda event: event.state in states)
    if labels := dict(job_filter.labels):
        checks.append(lambda event: labels.items() <= event.labels.items())

    def matches(event: JobEvent) -> bool:
        # A loop, since a generator for all() takes as long as three checks.
        for check in checks:  # noqa: SIM110
            if not check(event):
                return False
        return True

    return matches


def keys_of_filter(tenant: str, job_filter: JobFilter) -> list[Key]:
    """Keys of which an event that matches has exactly one: those of the narrowest field set."""
    if job_filter.job_ids:
        return [("job", job_id) for job_id in job_filter.job_ids]
    if job_filter.batch_id:
        return [("batch", job_filter.batch_id)]
    if job_filter.labels:
        return [("label", tenant, *min(job_filter.labels.items()))]
    if job_filter.queues:
        return [("queue", tenant, queue) for queue in job_filter.queues]
    if job_filter.types:
        return [("type", tenant, job_type) for job_type in job_filter.types]
    return [("tenant", tenant)]


def keys_of_event(event: JobEvent) -> Iterator[Key]:
    """Every key by which a filter that matches the event may be found."""
    for keys_of in KEYS_OF_EVENT.values():
        yield from keys_of(event)


# The same by the kinds of keys, which is what a key begins with.
KEYS_OF_EVENT: Final[Mapping[Hashable, Callable[[JobEvent], Sequence[Key]]]] = {
    "tenant": lambda event: (("tenant", event.tenant),),
    "job": lambda event: (("job", event.job_id),),
    "queue": lambda event: (("queue", event.tenant, event.queue),),
    "type": lambda event: (("type", event.tenant, event.job_type),),
    "batch": lambda event: (("batch", event.batch_id),) if event.batch_id else (),
    "label": lambda event: [("label", event.tenant, *label) for label in event.labels.items()],
}
