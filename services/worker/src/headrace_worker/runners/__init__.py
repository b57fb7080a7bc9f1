"""Runners of handlers: in the event loop, in a thread, in a process."""
