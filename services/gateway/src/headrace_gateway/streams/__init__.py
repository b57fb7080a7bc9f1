"""The streams: what happens to jobs, pushed to whoever follows them.

One tail reads each event once and hands it to the mailboxes of the streams that want it: to the
streams of one job as soon as it is visible, to those of many jobs once its place in the log has
settled. A stream reads its past from PostgreSQL, and goes back there whenever its mailbox was too
small; nothing is dropped without that.
"""

from headrace_gateway.streams.gauges import Gauges
from headrace_gateway.streams.many import Mark, WatchPage
from headrace_gateway.streams.service import Watch

__all__ = ["Gauges", "Mark", "Watch", "WatchPage"]
