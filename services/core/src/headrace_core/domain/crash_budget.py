"""The crash budget: how often a job may lose its worker, apart from how often it is tried again.

When a worker dies, nobody can tell which of its jobs has killed it. So all of them are charged with
a loss at first, and the few that have lost several workers run in a process of their own from then
on. Such a process tells for certain whose crash it was, and takes nobody else along; and when the
worker dies nevertheless, that was not the fault of what ran apart from it.
"""

from __future__ import annotations

# How many workers a job loses before it runs in a process of its own. One loss is mostly bad luck:
# a machine that went, or a neighbour that crashed. A second one is a suspicion, and a process costs
# an innocent job little: some tenths of a second, and maybe the wait for a place.
LOSSES_BEFORE_OWN_PROCESS = 2


def needs_own_process(worker_losses: int) -> bool:
    """Whether a job that has lost so many workers runs in a process of its own."""
    return worker_losses >= LOSSES_BEFORE_OWN_PROCESS


def is_spent(worker_losses: int, *, limit: int) -> bool:
    """Whether a job that has lost so many workers fails with the next one.

    Args:
        worker_losses: how many it has been charged with.
        limit: how many it may lose (HEADRACE_MAX_WORKER_LOSSES).
    """
    return worker_losses >= limit
