"""The streams: job events and log lines, pushed to the clients that follow the jobs.

One tail reads each event once and routes it to the mailboxes of matching streams. A stream of one
job receives an event when it is visible. A stream of many jobs receives it when its place in the
log has settled. Streams read past events from PostgreSQL when they start and after their mailboxes
overflow. A second tail finds the followed jobs with new log lines.
"""

from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.job_logs import LogUpdate
from headrace_gateway.streams.many import Mark, WatchPage
from headrace_gateway.streams.service import Watch

__all__ = ["Gauges", "LogUpdate", "Mark", "Watch", "WatchPage"]
