"""Runners of handlers (event loop, thread, process), and the attempt for which code runs."""
