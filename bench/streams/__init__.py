"""Benchmark of the status streams: latency of events, and cost of open streams."""
