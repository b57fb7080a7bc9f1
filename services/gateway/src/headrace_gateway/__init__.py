"""Headrace's gRPC API: `python -m headrace_gateway`."""
