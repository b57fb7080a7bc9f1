"""Benchmark of the status streams: latency of transitions, and cost of open streams."""
