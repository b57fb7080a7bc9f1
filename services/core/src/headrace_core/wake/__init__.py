"""Wake-ups: "look, something has changed". They are hints; what changed is read from PostgreSQL.

They go through Redis while it is there, and through LISTEN/NOTIFY while it is not. A wake-up may be
lost or come twice; whoever waits for one looks by itself every so often.
"""

from headrace_core.wake.listener import Listener
from headrace_core.wake.topic import Topic
from headrace_core.wake.waker import Waker

__all__ = ["Listener", "Topic", "Waker"]
