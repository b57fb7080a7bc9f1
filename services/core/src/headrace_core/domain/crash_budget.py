"""The crash budget: how often a job may lose its worker, apart from how often it is tried again.

When a worker dies, nobody can tell which of its jobs has killed it. So all of them are charged with
a loss at first, and the few that have lost several workers run in a process of their own from then
on. Such a process tells for certain whose crash it was, and takes nobody else along; and when the
worker dies nevertheless, that was not the fault of what ran apart from it.

A job can also end its worker cleanly, by a signal. Its attempt and those beside it are then
interrupted, as in every deployment, so a second budget counts interruptions in a row. It is
generous: a job that takes longer than the time between two deployments must not exhaust it soon.
"""

from __future__ import annotations

# How many workers a job loses before it runs in a process of its own. One loss is mostly bad luck:
# a machine that went, or a neighbour that crashed. A second one is a suspicion, and a process costs
# an innocent job little: some tenths of a second, and maybe the wait for a place.
LOSSES_BEFORE_OWN_PROCESS = 2


# How many interruptions in a row a job has before it runs in a process of its own.
INTERRUPTIONS_BEFORE_OWN_PROCESS = 5


def needs_own_process(worker_losses: int, interruptions: int = 0) -> bool:
    """Whether a job with so many losses, or interruptions in a row, runs in its own process."""
    return (
        worker_losses >= LOSSES_BEFORE_OWN_PROCESS
        or interruptions >= INTERRUPTIONS_BEFORE_OWN_PROCESS
    )


def is_spent(charged: int, *, limit: int) -> bool:
    """Whether the next loss of a worker, or the next interruption, fails the job.

    Args:
        charged: how many the job has been charged with.
        limit: how many it may have (HEADRACE_MAX_WORKER_LOSSES, HEADRACE_MAX_INTERRUPTIONS).
    """
    return charged >= limit
