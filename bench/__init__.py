"""Benchmarks of the whole platform with real processes, servers and clients."""
