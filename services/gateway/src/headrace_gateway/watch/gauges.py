"""What the streams of a gateway can tell of themselves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Gauges:
    """Plain numbers; whoever serves metrics reads them.

    Attributes:
        job_streams: open streams over one job.
        filter_streams: open streams over many jobs.
        looks: how often the tail has looked.
        events: how many events it has read.
        settled_lag: for how many seconds an event that was read has been waiting for an open
            transaction; 0 when none waits.
        catch_ups: how often a stream fell behind its queue and went on from PostgreSQL.
        gaps: how often an event of a job came without the one before it. It must stay 0.
    """

    job_streams: int = 0
    filter_streams: int = 0
    looks: int = 0
    events: int = 0
    settled_lag: float = 0.0
    catch_ups: int = 0
    gaps: int = 0
