"""Runners of handlers in the event loop, a thread or a process, and the owners of tasks."""
