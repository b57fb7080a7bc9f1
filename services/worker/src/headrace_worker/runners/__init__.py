"""Runners that execute handlers in the event loop, a thread or a process; task ownership."""
