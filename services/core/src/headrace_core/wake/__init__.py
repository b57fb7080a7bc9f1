"""Wake-ups: hints that something changed, which subscribers then read from PostgreSQL.

They travel through Redis, or through LISTEN/NOTIFY while Redis is unavailable. A wake-up may be
lost or repeated, so each subscriber also runs without one after a while.
"""

from headrace_core.wake.bus import WakeBus, WakeSubscription
from headrace_core.wake.receiver import DeafError
from headrace_core.wake.topic import Timing, Topic

__all__ = ["DeafError", "Timing", "Topic", "WakeBus", "WakeSubscription"]
