"""Worker durations that are not configurable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Durations in seconds; a pair is the range of a random pause.

    Attributes:
        retry: the pause before another try to write while PostgreSQL is unavailable.
        open_row: the pause between two checks whether a handler's transaction still locks its job
            row. The pause doubles from the first value to the second.
        merge: the interval in which progress of one attempt is merged: ten events per second.
        log_merge: the time that log lines of all attempts are gathered before they are written.
        process_exit: the time for a process that has closed its output to exit on its own.
        process_reap: the time for a killed process to be reaped.
        drain_grace: the time for a handler to end after the grace period of a drain.
        hand_back: the time limit of each drain step that writes to PostgreSQL or Redis.
        task_end: the time limit for background tasks to end in a drain.
        stop_margin: the maximum time of a stop after the grace period. The process must exit within
            2 s after that period.
    """

    retry: tuple[float, float] = (0.1, 0.5)
    open_row: tuple[float, float] = (0.1, 2.0)
    merge: float = 0.1
    log_merge: float = 0.1
    process_exit: float = 1.0
    process_reap: float = 5.0
    drain_grace: float = 0.5
    hand_back: float = 1.0
    task_end: float = 0.5
    stop_margin: float = 1.5
