"""Benchmarks of the platform as its users meet it: real processes, real servers, real clients."""
