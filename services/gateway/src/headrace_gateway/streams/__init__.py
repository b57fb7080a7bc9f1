"""The streams: events of jobs, pushed to the clients that follow them.

One tail reads each event once and routes it to the mailboxes of matching streams: of one job when
the event is visible, of many jobs when its place in the log has settled. A stream reads the past
from PostgreSQL, and does so again after an overflow of its mailbox.
"""

from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.many import Mark, WatchPage
from headrace_gateway.streams.service import Watch

__all__ = ["Gauges", "Mark", "Watch", "WatchPage"]
