"""Wake-ups: hints that make subscribers read changes from PostgreSQL.

Wake-ups are sent through Redis, or through LISTEN/NOTIFY while Redis is unavailable. A wake-up can
be lost or repeated, so each subscriber also runs at intervals without a wake-up.
"""

from headrace_core.wake.bus import WakeBus, WakeSubscription
from headrace_core.wake.receiver import WakeUpsLost
from headrace_core.wake.topic import Timing, Topic

__all__ = ["Timing", "Topic", "WakeBus", "WakeSubscription", "WakeUpsLost"]
