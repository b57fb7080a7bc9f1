"""Processes that no test has started itself."""

from __future__ import annotations

import psutil


def runs(pid: int) -> bool:
    """Whether a process does anything; whose parent is gone may stay for a while after its end."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
